"""benchmarks/machine.py: how much of the machine others use, and what is done about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from benchmarks.machine import (
    InTurn,
    OtherLoad,
    Process,
    QuietRuns,
    Reading,
    describe_machine,
    measure_in_turn,
    parse_busy,
    parse_process,
    quiet_median,
    quiet_runs,
    read_processors,
    seconds_of_descendants,
)

TICK = os.sysconf("SC_CLK_TCK")


def watcher(loads: Sequence[float | None]) -> Callable[[], OtherLoad]:
    """Make watches on a clock of their own, which find these loads one after the other."""
    remaining = iter(loads)

    def make() -> OtherLoad:
        load = next(remaining)
        # Two seconds, in which this process computed for one.
        end = None if load is None else Reading(12.0, 100.0 + 1.0 + 2 * load, 51.0)
        readings = iter([Reading(10.0, 100.0, 50.0), end])
        return OtherLoad(lambda: next(readings))

    return make


def counter() -> Callable[[], float]:
    """Return 0, 1, 2, ... from call to call."""
    numbers: Iterator[int] = iter(range(100))
    return lambda: float(next(numbers))


@pytest.mark.parametrize("load", [0.0, 0.25, 1.5])
def test_others_load_is_what_is_busy_without_us(load: float) -> None:
    with watcher([load])() as watch:
        assert watch.cores is None
    assert watch.cores == pytest.approx(load)


def test_a_load_below_zero_is_the_clocks_coarseness() -> None:
    readings = iter([Reading(0.0, 10.0, 5.0), Reading(1.0, 10.98, 6.0)])
    with OtherLoad(lambda: next(readings)) as watch:
        pass
    assert watch.cores == 0


def test_a_system_that_tells_nothing_leaves_the_load_unknown() -> None:
    with OtherLoad(lambda: None) as watch:
        pass
    assert watch.cores is None


def test_quiet_runs_are_taken_as_they_come() -> None:
    taken = quiet_runs(counter(), 3, watch=watcher([0.0, 0.09, 0.04]))
    assert taken == QuietRuns((0.0, 1.0, 2.0), pytest.approx((0.0, 0.09, 0.04)), 0, 0.1)
    assert taken.quiet
    assert taken.remark == "others used 0.04 cores; 0 of 3 runs rejected"


def test_loaded_runs_are_rejected_and_taken_again() -> None:
    median, taken = quiet_median(counter(), 3, watch=watcher([0.5, 0.0, 0.2, 0.09, 2.0, 0.0]))
    assert taken.results == (1.0, 3.0, 5.0)
    assert (median, taken.rejected, taken.quiet) == (3.0, 3, True)
    assert "3 of 6 runs rejected" in taken.remark


def test_without_a_quiet_machine_the_least_loaded_runs_are_marked() -> None:
    loads = [0.9, 0.5, 0.02, 0.7, 0.6, 0.8]
    taken = quiet_runs(counter(), 2, watch=watcher(loads))
    assert taken.results == (2.0, 1.0)  # the only quiet one, and the least loaded of the others
    assert taken.rejected == 4
    assert not taken.quiet
    assert taken.remark.startswith("NOT QUIET: others used 0.26 cores in the least loaded runs")


def test_the_number_of_tries_is_bounded() -> None:
    taken = quiet_runs(counter(), 2, tries=3, watch=watcher([1.0, 1.0, 1.0]))
    assert len(taken.results) == 2
    assert taken.rejected == 1
    lenient = quiet_runs(counter(), 2, limit=1.5, watch=watcher([1.0, 1.0]))
    assert lenient.quiet


def test_runs_of_an_unknown_load_are_kept() -> None:
    taken = quiet_runs(counter(), 2, watch=watcher([None, None]))
    assert taken.results == (0.0, 1.0)
    assert taken.remark == "load of others unknown"


def test_ratios_are_of_the_same_run() -> None:
    # The machine becomes slower: medians alone would compare different runs.
    ours, theirs = iter([100.0, 50.0, 20.0]), iter([10.0, 5.0, 4.0])
    found = measure_in_turn(
        {"ours": lambda: next(ours), "theirs": lambda: next(theirs)}, 3, watch=watcher([0.0] * 3)
    )
    assert isinstance(found, InTurn)
    assert found.median("ours") == 50
    assert found.ratio("ours", "theirs") == 10
    assert found.runs.results[2] == {"ours": 20.0, "theirs": 4.0}


def test_busy_time_leaves_idling_and_waiting_out() -> None:
    text = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 1\n"
    assert parse_busy(text) == (100 + 20 + 30 + 6 + 7 + 8) / TICK


@pytest.mark.parametrize("name", ["python", "a b", "(sd-pam)", "x) R 1 (y"])
def test_processes_are_read_whatever_their_name(name: str) -> None:
    middle = " ".join(["0"] * 9)
    line = f"42 ({name}) S 7 {middle} 100 20 3 4 20 0 1 0 99"
    assert parse_process(line) == Process(42, 7, 127 / TICK)


def test_descendants_are_found_at_any_depth() -> None:
    processes = {
        pid: Process(pid, parent, float(pid))
        for pid, parent in {2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 7: 99}.items()
    }
    assert seconds_of_descendants(processes, 2) == 3 + 4
    assert seconds_of_descendants(processes, 1) == 2 + 3 + 4 + 5 + 6
    assert seconds_of_descendants(processes, 6) == 0
    assert seconds_of_descendants({}, 1) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_what_a_running_child_computes_is_our_own() -> None:
    before = read_processors()
    assert before is not None
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    running = read_processors()
    child.communicate("\n")
    ended = read_processors()
    assert running is not None and ended is not None
    assert running.own - before.own >= 0.25
    assert ended.own - running.own < 0.25  # counted once, though it is waited for now
    assert before.at < running.at < ended.at <= time.perf_counter()


def test_a_machine_has_a_name() -> None:
    assert f"{os.cpu_count()} cores; torch " in describe_machine()
