"""Threads that compute with one core each, so that none of them ever waits for another.

One convolution on several cores ends when its slowest core does: with another process on one of
them, OpenMP's threads wait for it at every layer. Threads that each take the next batch when they
are free lose only what that process takes. The results are the same for any number of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class CoreWorkers:
    """A pool of one-core threads that is made on first use.

    Args:
        threads: How many; 0: one a core of this process.
    """

    def __init__(self, threads: int = 0) -> None:
        if threads < 0:
            raise ValueError(f"threads={threads}: give 1 or more, or 0 for one a core")
        self.threads = threads or available_cores()
        self._pool: ThreadPoolExecutor | None = None
        self._leader: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Apply a function to every item, in inference mode; return the results in order.

        A thread that computes with one core already does the work itself when it is the only one.
        """
        if self.threads == 1 and torch.get_num_threads() == 1:
            with torch.inference_mode():
                return [function(item) for item in items]

        def infer(item: _Item) -> _Result:
            with torch.inference_mode():
                return function(item)

        return list(self._started().map(infer, items))

    def together(self, function: Callable[[_Item], _Result], item: _Item) -> _Result:
        """Apply a function to one item in inference mode, all cores sharing its operators.

        For what there is one of, an image: oneDNN's convolutions give the same bits on any number
        of cores. They wait for each other at every layer, which batches do not.
        """
        if self.threads == 1:
            [result] = self.map(function, [item])
            return result

        def infer() -> _Result:
            with torch.inference_mode():
                return function(item)

        self._started()
        assert self._leader is not None
        return self._leader.submit(infer).result()

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                pool = ThreadPoolExecutor(self.threads, "core")
                leader = ThreadPoolExecutor(1, "all cores")
                # Each thread waits until all of them have been here.
                together = threading.Barrier(self.threads)
                # torch takes the last number that any thread chose for threads still to come. A
                # new thread knows it, and can put it back without touching the caller's own.
                with ThreadPoolExecutor(1) as new:
                    before = new.submit(torch.get_num_threads).result()
                    list(pool.map(lambda _: use_cores(1, together), range(self.threads)))
                    leader.submit(use_cores, self.threads).result()
                    new.submit(torch.set_num_threads, before).result()
                self._pool, self._leader = pool, leader
            return self._pool


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(threads: int, images: int | None) -> tuple[int, int]:
    """Share cores between images that are in work at the same time and each image's regions.

    Args:
        threads: Cores to use; 0: all.
        images: How many there are to do; None: many.

    Returns:
        Images at the same time, and cores for each of them.
    """
    threads = threads or available_cores()
    at_once = threads if images is None else max(1, min(threads, images))
    return at_once, threads // at_once


def use_cores(count: int, together: threading.Barrier | None = None) -> None:
    """Let the operators of the calling thread use so many cores; wait for others where asked."""
    torch.get_num_threads()  # a thread's first question resets it to the last number chosen
    torch.set_num_threads(count)
    if together:
        together.wait()
