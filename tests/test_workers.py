from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detect.workers import CoreWorkers, available_cores, share_cores


@pytest.fixture(params=[1, 2], ids=["caller with 1 core", "caller with 2 cores"])
def caller_threads(request) -> Iterator[int]:
    """The number of threads that the calling thread computes with."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def in_a_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_results_come_in_the_order_of_the_items(caller_threads, threads: int, count: int) -> None:
    workers = CoreWorkers(threads)
    expected = [item * item for item in range(count)]
    assert workers.map(lambda item: item * item, range(count)) == expected
    assert workers.map(lambda item: item * item, iter(range(count))) == expected


def test_a_late_first_result_still_comes_first() -> None:
    second_is_done = threading.Event()

    def wait_or_signal(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(10)
        else:
            second_is_done.set()
        return item

    assert CoreWorkers(2).map(wait_or_signal, [0, 1]) == [0, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_reaches_the_caller_and_later_work_goes_on(
    caller_threads, threads: int
) -> None:
    workers = CoreWorkers(threads)

    def invert(item: int) -> float:
        return 1 / item

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            workers.map(invert, [1, 2, 0, 4, 0, 5, 6, 7])
        assert workers.map(invert, [1, 2, 4]) == [1, 0.5, 0.25]
        assert set(workers.map(lambda _: torch.get_num_threads(), range(20))) == {1}


def test_an_iterator_that_fails_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    workers = CoreWorkers(2)
    with pytest.raises(OSError, match="no more"):
        workers.map(str, items())
    assert workers.map(str, [1]) == ["1"]


@pytest.mark.parametrize("threads", [-1, -7])
def test_fewer_threads_than_none_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=rf"threads={threads}: give 1 or more, or 0"):
        CoreWorkers(threads)


def test_no_number_means_one_thread_a_core() -> None:
    assert CoreWorkers().threads == CoreWorkers(0).threads == available_cores() >= 1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_worker_computes_with_one_core(caller_threads, threads: int) -> None:
    workers = CoreWorkers(threads)
    together = threading.Barrier(threads)

    def look(_: int) -> tuple[int, int]:
        together.wait(10)  # so that each of the threads takes one item
        return threading.get_ident(), torch.get_num_threads()

    for _ in range(3):
        seen = workers.map(look, range(threads))
        assert len({thread for thread, _ in seen}) == threads
        assert {number for _, number in seen} == {1}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_callers_and_new_threads_keep_their_number_of_cores(caller_threads, threads: int) -> None:
    CoreWorkers(threads).map(str, range(10))
    assert torch.get_num_threads() == caller_threads
    assert in_a_new_thread(torch.get_num_threads) == caller_threads


def test_a_caller_with_another_number_than_new_threads_changes_neither(caller_threads) -> None:
    def use_workers() -> int:
        torch.get_num_threads()  # before the first question, a choice does not last
        torch.set_num_threads(caller_threads + 1)
        in_a_new_thread(lambda: torch.set_num_threads(caller_threads))  # for threads to come
        CoreWorkers(2).map(str, range(10))
        return torch.get_num_threads()

    assert in_a_new_thread(use_workers) == caller_threads + 1
    assert in_a_new_thread(torch.get_num_threads) == caller_threads


@pytest.mark.parametrize("threads", [1, 2])
def test_work_is_done_in_inference_mode_and_the_caller_leaves_it(
    caller_threads, threads: int
) -> None:
    weight = torch.ones(3, requires_grad=True)
    [(mode, result)] = CoreWorkers(threads).map(
        lambda x: (torch.is_inference_mode_enabled(), weight * x), [2.0]
    )
    assert mode
    assert result.is_inference() and not result.requires_grad
    assert not torch.is_inference_mode_enabled()
    assert (weight * 2).requires_grad


def test_a_caller_of_one_core_works_itself_when_it_is_the_only_worker() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert CoreWorkers(1).map(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]
    torch.set_num_threads(2)
    assert CoreWorkers(1).map(lambda _: threading.get_ident(), [0]) != [threading.get_ident()]
    torch.set_num_threads(before)


def test_threads_that_share_workers_get_their_own_results() -> None:
    workers = CoreWorkers(2)  # not yet started: all callers want to start it at once
    together = threading.Barrier(6)

    def call(start: int) -> list[list[int]]:
        together.wait(10)
        return [workers.map(lambda item: item + 1, range(start, start + 9)) for _ in range(20)]

    with ThreadPoolExecutor(6) as callers:
        for start, found in enumerate(callers.map(call, range(6))):
            assert found == [list(range(start + 1, start + 10))] * 20


def test_workers_are_started_once_however_many_threads_come_first(monkeypatch) -> None:
    workers, together = CoreWorkers(2), threading.Barrier(4)

    pools = []

    class SlowPool(ThreadPoolExecutor):
        """Leaves other callers the time to come by."""

        def __init__(self, *arguments) -> None:
            time.sleep(0.03)
            super().__init__(*arguments)
            if "core" in arguments:
                pools.append(self)

    monkeypatch.setattr("detect.workers.ThreadPoolExecutor", SlowPool)

    def call(_: int) -> set[tuple[int, int]]:
        together.wait(10)
        return set(
            workers.map(lambda _: (threading.get_ident(), torch.get_num_threads()), range(9))
        )

    with ThreadPoolExecutor(4) as callers:
        seen = set().union(*callers.map(call, range(4)))
    assert len(pools) == 1
    assert len({thread for thread, _ in seen}) <= 2
    assert {number for _, number in seen} == {1}


def test_no_more_threads_work_than_were_asked_for() -> None:
    workers = CoreWorkers(2)
    lock, busy, most = threading.Lock(), [], []

    def work(item: int) -> None:
        with lock:
            busy.append(item)
            most.append(len(busy))
        torch.rand(200, 200) @ torch.rand(200, 200)
        with lock:
            busy.remove(item)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: workers.map(work, range(10)), range(4)))
    assert max(most) <= 2


def test_results_are_the_same_bits_for_any_number_of_threads(caller_threads) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv2d(24, 48, 3)
    batches = [torch.randn(3, 24, 40, 41, generator=generator) for _ in range(7)]
    expected = CoreWorkers(1).map(layer, batches)
    for threads in (2, 3, 8):
        found = CoreWorkers(threads).map(layer, batches)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_workers_that_are_no_longer_used_end_their_threads() -> None:
    before = set(threading.enumerate())
    workers = CoreWorkers(3)
    workers.map(str, range(3))
    started = set(threading.enumerate()) - before
    assert len(started) == 4  # one of them is for what all cores share
    del workers
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_item_is_shared_by_all_cores(threads: int) -> None:
    workers = CoreWorkers(threads)
    cores, inferring = workers.together(
        lambda _: (torch.get_num_threads(), torch.is_inference_mode_enabled()), None
    )
    assert (cores, inferring) == (threads, True)
    assert workers.map(lambda _: torch.get_num_threads(), range(4)) == [1] * 4


@pytest.mark.parametrize(
    ("threads", "images", "expected"),
    [
        (4, 1, (1, 4)),
        (4, 2, (2, 2)),
        (4, 3, (3, 1)),
        (4, 9, (4, 1)),
        (4, None, (4, 1)),
        (1, 0, (1, 1)),
    ],
)
def test_cores_go_to_images_first_and_what_is_left_to_their_regions(
    threads: int, images: int | None, expected: tuple[int, int]
) -> None:
    assert share_cores(threads, images) == expected
