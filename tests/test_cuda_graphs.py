from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from detect.cuda_graphs import GraphedCompute, padded_size

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 32), (1, 32), (31, 32), (32, 32), (33, 64), (64, 64), (65, 128), (512, 512), (513, 1024)],
)
def test_batches_are_padded_to_the_next_power_of_two(count: int, size: int) -> None:
    assert padded_size(count) == size


def test_no_batch_is_padded_to_twice_its_size_but_for_the_smallest() -> None:
    for count in range(1, 3000):
        size = padded_size(count)
        assert count <= size < max(2 * count, 33)
        assert size & (size - 1) == 0


def test_no_graph_is_made_before_the_first_call() -> None:
    def fail(inputs: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("called")

    GraphedCompute(fail).release()


class Compute:
    """Two linear layers on a GPU; calls are counted, those of the capture among them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = [nn.Linear(6, k).cuda().requires_grad_(False) for k in (3, 5)]
        self.calls = 0

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        first, second = (layer(inputs.flatten(1)) for layer in self.layers)
        return first, second.relu()


def assert_equals_plain(found: tuple[Tensor, Tensor], compute: Compute, inputs: Tensor) -> None:
    for a, b in zip(found, compute(inputs), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)  # the batch may choose the kernel


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_replayed_batches_of_any_size_equal_those_computed_plainly() -> None:
    compute = Compute()
    graphed = GraphedCompute(compute)
    # Growing and shrinking: what a longer batch left in a graph's memory must not show.
    for count in (40, 1, 0, 32, 33, 5, 64, 3, 100, 2):
        inputs = torch.randn(count, 6, device="cuda")
        assert_equals_plain(graphed(inputs), compute, inputs)
    compute.calls = 0
    for count in (1, 32, 64, 100):
        graphed(torch.randn(count, 6, device="cuda"))
    assert compute.calls == 0


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_results_are_not_overwritten_by_later_calls() -> None:
    compute = Compute()
    graphed = GraphedCompute(compute)
    batches = [torch.randn(20, 6, device="cuda") for _ in range(4)]
    results = [graphed(batch) for batch in batches]
    for result, batch in zip(results, batches, strict=True):
        assert_equals_plain(result, compute, batch)


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_inputs_of_every_shape_and_order_get_a_graph_of_their_own() -> None:
    compute = Compute()
    graphed = GraphedCompute(compute)
    for shape in ((9, 6), (9, 2, 3, 1), (9, 1, 3, 2), (9, 3, 2)):
        inputs = torch.randn(shape, device="cuda")
        assert_equals_plain(graphed(inputs), compute, inputs)
        if len(shape) == 4:
            last = inputs.contiguous(memory_format=torch.channels_last)
            assert_equals_plain(graphed(last), compute, inputs)


@pytest.mark.gpu
@needs_gpu
def test_threads_that_share_graphs_get_their_own_results() -> None:
    compute = Compute()
    graphed = GraphedCompute(compute)

    def call(seed: int) -> None:
        generator = torch.Generator("cuda").manual_seed(seed)
        with torch.inference_mode():
            for count in (seed + 1, 40, 70):
                inputs = torch.randn(count, 6, device="cuda", generator=generator)
                assert_equals_plain(graphed(inputs), compute, inputs)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(12)))


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_released_graphs_give_their_memory_back_and_are_captured_again() -> None:
    calls = []

    def compute(inputs: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(inputs))
        return inputs * 2, inputs + 1

    graphed = GraphedCompute(compute)
    inputs = torch.randn(2**16, 6, device="cuda")
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        calls.clear()
        assert torch.equal(graphed(inputs)[0], inputs * 2)
        assert calls == [2**16] * 4  # three warm-ups and the capture
        assert torch.cuda.memory_allocated() > before
        graphed.release()
        assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_what_cannot_be_captured_is_computed_plainly_and_said(caplog) -> None:
    def synchronise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs * (1 + inputs.sum().item() * 0), inputs

    graphed = GraphedCompute(synchronise)
    for count in (3, 5):
        inputs = torch.randn(count, 6, device="cuda")
        first, second = graphed(inputs)
        assert torch.equal(first, inputs) and torch.equal(second, inputs)
    assert caplog.text.count("no CUDA graph for batches of 32") == 1
    assert torch.equal(torch.ones(3, device="cuda").cpu(), torch.ones(3))  # the GPU still works


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
def test_lack_of_memory_in_the_capture_reaches_the_caller() -> None:
    def fail(inputs: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        GraphedCompute(fail)(torch.randn(3, 6, device="cuda"))
