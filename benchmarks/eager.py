"""The anchor: torchvision's GoogLeNet, eager, in float32, with nothing done to it.

It computes in a process of its own, so that nothing this project sets for itself (how memory is
kept, how threads wait) helps or hinders it. This file is that process too: it reads requests from
standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, not this folder's files

from benchmarks.contestants import Place, make_crops
from detect.allocator import keep_freed_memory
from detect.budget_measures import time_passes
from detect.workers import CoreWorkers

_LONGEST_PASS = 5.0  # seconds; no larger batch is tried behind such a one


class Eager:
    """The anchor in whichever way it is fastest: to be generous, the best of all.

    A way is a size of batch, on a CPU with OpenMP's threads on all cores or with a thread of its
    own on each core.

    Args:
        place: Where it computes; the time of one measurement.
        batches: Sizes to choose from.
        keeps_memory: Whether its process keeps freed memory, as this project's tools do.
    """

    def __init__(self, place: Place, batches: Sequence[int], *, keeps_memory: bool = False) -> None:
        self.place = place
        self._process: subprocess.Popen[str] | None = None
        self._keeps_memory = keeps_memory
        self.batch, self.threaded = self._fastest(batches)
        self.name = f"eager torchvision float32, {self._ways()[self.threaded]}, batch {self.batch}"

    def rate(self) -> float:
        """Return crops a second in the fastest way."""
        return self.rate_of(self.batch, threaded=self.threaded)

    def rate_of(self, batch: int, *, threaded: bool) -> float:
        """Return crops a second.

        Args:
            batch: Crops that pass through together.
            threaded: Whether every core has a thread of its own, in place of OpenMP's on all.
        """
        crops, taken = self._time(batch, threaded, self.place.seconds)
        return crops / taken

    def close(self) -> None:
        """End its process."""
        if self._process is not None:
            self._process.communicate()

    def _time(self, batch: int, threaded: bool, seconds: float) -> tuple[int, float]:
        """Return the crops and the seconds of one pass, measured in the other process."""
        if self._process is None:
            settings = [self.place.device.type, str(self.place.workers.threads)]
            self._process = subprocess.Popen(
                [sys.executable, __file__, *settings, str(int(self._keeps_memory))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        print(json.dumps([batch, threaded, seconds]), file=requests, flush=True)
        answer = answers.readline()
        if not answer:
            raise SystemExit("the anchor's process ended: see above")
        crops, taken = json.loads(answer)
        return crops, taken

    def _fastest(self, batches: Sequence[int]) -> tuple[int, bool]:
        rates = {}
        for threaded in self._ways():
            for batch in batches:
                crops, taken = self._time(batch, threaded, self.place.seconds / 2)
                rates[batch, threaded] = crops / taken
                if taken > _LONGEST_PASS:
                    break
        return max(rates, key=lambda way: rates[way])

    def _ways(self) -> dict[bool, str]:
        if self.place.device.type != "cpu":
            return {False: "on the GPU"}
        cores = self.place.shares
        return {False: f"OpenMP on {cores} cores", True: f"one-core threads: {cores}"}


def serve(device: torch.device, threads: int) -> None:
    """Answer requests ``[batch, threaded, seconds]`` by ``[crops, seconds]`` of one pass."""
    workers = CoreWorkers(threads)
    torch.set_num_threads(workers.threads)  # OpenMP's
    network = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False)
    network = network.eval().to(device)
    for line in sys.stdin:
        batch, threaded, seconds = json.loads(line)
        crops = make_crops(batch).to(device)
        items = [crops] * (2 * workers.threads if threaded else 1)

        def work(crops: torch.Tensor = crops, items: list[torch.Tensor] = items) -> None:
            if len(items) > 1:
                workers.map(network, items)
                return
            with torch.inference_mode():
                network(crops)

        taken = time_passes(work, seconds=seconds, device=device)
        print(json.dumps([batch * len(items), taken]), flush=True)


if __name__ == "__main__":
    if sys.argv[3] == "1":
        keep_freed_memory()
    serve(torch.device(sys.argv[1]), int(sys.argv[2]))
