"""What computes GoogLeNet on crops: this project's network, and others to compare it with.

Each is a class with a ``rate()`` in crops a second, measured over about ``place.seconds``.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detect.budget_measures import run_on, time_passes
from detect.engine import BATCH_SIZES, GPU_BATCH_SIZE
from detect.googlenet import GoogLeNet
from detect.prepare import prepare_network
from detect.workers import CoreWorkers

SIDE = 224  # pixels of a crop
_BATCHES_A_WORKER = 4  # in one pass, so that no worker waits long for the last one


@dataclass(frozen=True)
class Place:
    """Where something is measured.

    Attributes:
        device: That computes.
        workers: Cores that share the work, on a CPU.
        seconds: Of one measurement, about.
    """

    device: torch.device
    workers: CoreWorkers
    seconds: float

    @property
    def shares(self) -> int:
        """How many compute at the same time."""
        return self.workers.threads if self.device.type == "cpu" else 1


class Contestant(Protocol):
    """Something that computes crops."""

    name: str

    def rate(self) -> float:
        """Return crops a second."""


class Network:
    """A network of this project, alone: prepared, on crops that lie ready.

    Args:
        network: As trained.
        dtype: In which it computes.
        place: Where.
    """

    def __init__(self, network: GoogLeNet, dtype: torch.dtype, place: Place) -> None:
        self.name = f"the network alone, {str(dtype).removeprefix('torch.')}"
        self.prepared = prepare_network(network, dtype=dtype, device=place.device)
        self.place = place
        on_cpu = place.device.type == "cpu"
        batch = BATCH_SIZES["crops"] if on_cpu else GPU_BATCH_SIZE
        crops = make_crops(batch).to(place.device, dtype)
        crops = crops.contiguous(memory_format=torch.channels_last)
        self.crops = [crops] * (place.shares * _BATCHES_A_WORKER)

    def rate(self) -> float:
        """Return crops a second of all workers."""
        place = self.place
        work = partial(run_on, place.device, place.workers, self.prepared.features, self.crops)
        taken = time_passes(work, seconds=place.seconds, device=place.device)
        return sum(map(len, self.crops)) / taken


class OnnxRuntime:
    """The same weights by ONNX Runtime in float32, batch normalisation folded in."""

    name = "ONNX Runtime, float32"

    def __init__(self, network: GoogLeNet, place: Place) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")  # without types
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = place.shares
        self.place = place
        self.crops = make_crops(BATCH_SIZES["crops"]).numpy()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter without onnxscript is the older one
            path = Path(folder) / "network.onnx"
            example = torch.from_numpy(self.crops)
            torch.onnx.export(
                _Features(network), (example,), path, dynamo=False, input_names=["crops"]
            )
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )

    def rate(self) -> float:
        """Return crops a second."""
        return len(self.crops) / time_passes(
            lambda: self.session.run(None, {"crops": self.crops}),
            seconds=self.place.seconds,
            device=self.place.device,
        )


class OpenVino:
    """The same weights by OpenVINO, in the precision that it chooses, in its throughput mode."""

    name = "OpenVINO, its own precision"

    def __init__(self, network: GoogLeNet, place: Place) -> None:
        openvino: Any = importlib.import_module("openvino")  # without types
        self.place = place
        self.crops = make_crops(BATCH_SIZES["crops"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of shapes, which are fixed here
            model = openvino.convert_model(_Features(network), example_input=self.crops)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": place.shares,
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.queue = openvino.AsyncInferQueue(compiled)

    def rate(self) -> float:
        """Return crops a second."""
        calls = 2 * len(self.queue)

        def work() -> None:
            for _ in range(calls):
                self.queue.start_async([self.crops.numpy()])
            self.queue.wait_all()

        taken = time_passes(work, seconds=self.place.seconds, device=self.place.device)
        return calls * len(self.crops) / taken


class _Features(nn.Module):
    """The network up to its features as a module's forward pass, for exporters."""

    def __init__(self, network: GoogLeNet) -> None:
        super().__init__()
        self.network = prepare_network(
            network, dtype=torch.float32, device=torch.device("cpu"), own_kernels=False
        ).eval()

    def forward(self, crops: Tensor) -> Tensor:
        """Return features of crops."""
        return self.network.features(crops)


def others(network: GoogLeNet, place: Place) -> Iterator[Contestant | str]:
    """Yield what else is installed here and computes on a CPU, or a line that says it is not."""
    makers: dict[str, Callable[[GoogLeNet, Place], Contestant]]
    makers = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
    for package, make in makers.items():
        needed = [package, *(["onnx"] if package == "onnxruntime" else [])]
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            yield f"{package}: not compared, {missing[0]} is not installed"
        else:
            yield make(network, place)


def make_crops(count: int) -> Tensor:
    """Make crops of about the values of preprocessed photos, ``[N, 3, 224, 224]``."""
    generator = torch.Generator().manual_seed(0)
    return 60 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
