"""What a benchmark runs on, and how much of it other processes use meanwhile.

A figure that was taken while others computed says little, so runs in which they used more than a
tenth of a core are taken again.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

QUIET_LIMIT = 0.1  # cores that other processes may use while something is measured
_TRIES = 3  # runs that are tried for each one wanted, at most
_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

_Result = TypeVar("_Result")


def describe_machine() -> str:
    """Name the processor, its cores, torch and the GPU, in one line."""
    import torch

    info = _PROC / "cpuinfo"
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processor = models[0] if models else "unknown processor"
    return f"{processor}, {os.cpu_count()} cores; torch {torch.__version__}; {gpu}"


class Reading(NamedTuple):
    """What processors have done so far.

    Attributes:
        at: Seconds, of any clock.
        busy: Core seconds of everything, those that a hypervisor took away among them.
        own: Core seconds of this process and its descendants.
    """

    at: float
    busy: float
    own: float


def read_processors() -> Reading | None:
    """Read what the processors have done so far; None where the system does not tell."""
    try:
        busy = parse_busy((_PROC / "stat").read_text())
    except OSError:
        return None
    return Reading(time.perf_counter(), busy, _own_seconds())


def parse_busy(text: str) -> float:
    """Return the core seconds that all processes used, from the content of /proc/stat."""
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


class Process(NamedTuple):
    """A line of /proc/PID/stat."""

    pid: int
    parent: int
    seconds: float  # of its own and of children that it has waited for


def parse_process(line: str) -> Process:
    """Read a line of /proc/PID/stat; a command's name may hold spaces and brackets."""
    pid, _, rest = line.partition(" (")
    fields = rest.rpartition(") ")[2].split()  # from the third on
    return Process(int(pid), int(fields[1]), sum(map(int, fields[11:15])) / _TICK)


def seconds_of_descendants(processes: Mapping[int, Process], root: int) -> float:
    """Add up what the descendants of a process, itself not among them, have computed."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    total, waiting = 0.0, [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            total += child.seconds
            waiting.append(child.pid)
    return total


def _own_seconds() -> float:
    finished = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(usage.ru_utime + usage.ru_stime for usage in finished)
    return own + seconds_of_descendants({p.pid: p for p in _processes()}, os.getpid())


def _processes() -> Iterator[Process]:
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            yield parse_process(path.read_text())
        except OSError:  # it has ended
            continue


class OtherLoad:
    """Measures how many cores other processes use while it is open.

    Attributes:
        cores: The mean, 0 or more; None where the system does not tell.
    """

    def __init__(self, read: Callable[[], Reading | None] = read_processors) -> None:
        self.cores: float | None = None
        self._read = read
        self._start: Reading | None = None

    def __enter__(self) -> OtherLoad:
        self._start = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        start, end = self._start, self._read()
        if start and end and end.at > start.at:
            others = (end.busy - start.busy) - (end.own - start.own)
            self.cores = max(0.0, others / (end.at - start.at))


@dataclass(frozen=True)
class QuietRuns(Generic[_Result]):
    """Results of runs during which other processes left the machine alone, as far as they did.

    Attributes:
        results: One a run.
        loads: Cores that others used during each; None where the system does not tell.
        rejected: Runs that were taken and left out.
        limit: Cores that others were allowed.
    """

    results: tuple[_Result, ...]
    loads: tuple[float | None, ...]
    rejected: int
    limit: float

    @property
    def quiet(self) -> bool:
        """Whether every run was within the limit, as far as the system tells."""
        return all(load is None or load <= self.limit for load in self.loads)

    @property
    def remark(self) -> str:
        """What to say of the load beside a figure."""
        if None in self.loads:
            return "load of others unknown"
        load = statistics.median(load for load in self.loads if load is not None)
        rejected = f"{self.rejected} of {self.rejected + len(self.results)} runs rejected"
        if self.quiet:
            return f"others used {load:.2f} cores; {rejected}"
        return f"NOT QUIET: others used {load:.2f} cores in the least loaded runs; {rejected}"


def quiet_runs(
    measure: Callable[[], _Result],
    runs: int,
    *,
    limit: float = QUIET_LIMIT,
    tries: int | None = None,
    watch: Callable[[], OtherLoad] = OtherLoad,
) -> QuietRuns[_Result]:
    """Measure until enough runs were quiet; of too few, add the least loaded of the others.

    Args:
        measure: Takes one run; of half a second or more, for the load to be known well.
        runs: Results that are wanted.
        limit: Cores that other processes may use during a run.
        tries: Runs after which to give up; by default three for each one wanted.
        watch: Makes what measures the load of one run.
    """
    taken: list[tuple[float | None, _Result]] = []

    def fine(load: float | None) -> bool:
        return load is None or load <= limit

    for _ in range(runs * _TRIES if tries is None else tries):
        with watch() as load:
            result = measure()
        taken.append((load.cores, result))
        if sum(fine(cores) for cores, _ in taken) == runs:
            break
    # Quiet runs first, in their order; then the others, the least loaded first.
    taken.sort(key=lambda run: 0.0 if fine(run[0]) else run[0] or 0.0)
    kept = taken[:runs]
    return QuietRuns(
        results=tuple(result for _, result in kept),
        loads=tuple(cores for cores, _ in kept),
        rejected=len(taken) - len(kept),
        limit=limit,
    )


def quiet_median(
    measure: Callable[[], float],
    runs: int,
    limit: float = QUIET_LIMIT,
    *,
    tries: int | None = None,
    watch: Callable[[], OtherLoad] = OtherLoad,
) -> tuple[float, QuietRuns[float]]:
    """Return the median of quiet runs, and the runs: see ``quiet_runs``."""
    taken = quiet_runs(measure, runs, limit=limit, tries=tries, watch=watch)
    return statistics.median(taken.results), taken


@dataclass(frozen=True)
class InTurn:
    """Several things that were measured one after the other, again and again.

    Attributes:
        runs: One result a name in each.
    """

    runs: QuietRuns[dict[str, float]]

    def median(self, name: str) -> float:
        """Return the median of one of them."""
        return statistics.median(run[name] for run in self.runs.results)

    def ratio(self, name: str, other: str) -> float:
        """Return the median of the ratios of two of them in the same run."""
        return statistics.median(run[name] / run[other] for run in self.runs.results)


def measure_in_turn(
    measures: Mapping[str, Callable[[], float]],
    runs: int,
    *,
    tries: int | None = None,
    watch: Callable[[], OtherLoad] = OtherLoad,
) -> InTurn:
    """Measure several things in turn, so that whatever slows the machine slows all of them."""

    def take() -> dict[str, float]:
        return {name: measure() for name, measure in measures.items()}

    return InTurn(quiet_runs(take, runs, tries=tries, watch=watch))
