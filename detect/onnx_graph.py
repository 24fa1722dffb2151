"""Region classifiers as ONNX graphs, written node by node from the network's layers.

``torch.onnx.export`` is not used: its older exporter warns that it is deprecated, its newer one
needs onnxscript, takes many seconds and fails on warnings of torch 2.11. A dozen kinds of nodes
suffice here, and ``detect.export`` compares what they compute with PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from detect.checkpoint import Checkpoint
from detect.crops import CropConfig
from detect.googlenet import MAP_CHANNELS, ConvReLU, GoogLeNet, Preprocessing
from detect.heads import RegionHead
from detect.onnx_files import CLASSIFIER, DEFAULT_OPSET, REGIONS, TRUNK, ExportedDetector
from detect.region_sampling import POINTS
from detect.shared_geometry import SharedTrunkConfig

CROP_SIZE = CropConfig.size  # pixels, each side of a crop
LEAST_OPSET = 13  # the first with today's Softmax
Shape = list[int | str]


def export_in_memory(
    checkpoint: Checkpoint, regions: str | None = None, *, opset: int = DEFAULT_OPSET
) -> ExportedDetector:
    """Write a region classifier as ONNX models.

    For ``crops`` there is one model, from RGB crops 0..255, ``[N, 3, 224, 224]``; for ``shared``
    there are two, from an RGB image 0..255 at the trunk's scale, ``[1, 3, H, W]``, to its map,
    ``[1, 832, h, w]``, and from points of the map, ``[N, 832, 14, 14]``, on. Results are
    probabilities with background last, ``[N, C + 1]``, and box offsets in the head's units,
    ``[N, C, 4]``. Everything is float32. The same checkpoint gives the same bytes.

    Args:
        checkpoint: Network and head, in any precision, on any device.
        regions: ``crops`` or ``shared``; by default as trained.
        opset: Version of ONNX's operators.

    Raises:
        ValueError: If ``regions`` is neither, or the installed onnx cannot write the opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise ValueError(f"opset={opset}: choose one from {LEAST_OPSET} to {newest}")
    chosen = checkpoint.regions if regions is None else regions
    if chosen == "crops":
        graphs = {CLASSIFIER: _classifier(checkpoint)}
    elif chosen == "shared":
        graphs = {TRUNK: _trunk(checkpoint), REGIONS: _regions(checkpoint)}
    else:
        raise ValueError(f"regions={chosen}: choose shared or crops")
    return ExportedDetector(
        {name: graph.serialise(name, opset) for name, graph in graphs.items()},
        chosen,
        checkpoint.class_names,
        checkpoint.preprocessing,
        CropConfig.with_mean(checkpoint.preprocessing.mean),
        checkpoint.shared if chosen == "shared" else SharedTrunkConfig(),  # as a folder is read
        checkpoint.head.activation,
    )


class _Graph:
    """Nodes, weights, inputs and outputs, in the order in which they are added.

    Methods that add a node return the name of its output.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape) -> str:
        """Declare a float32 input; sides that are not fixed have a name."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, shape: Shape) -> None:
        """Declare that what a node computes is a result."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, name: str, values: Tensor | np.ndarray) -> str:
        """Add a weight; whole numbers stay whole, all others become float32."""
        array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, named as its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def serialise(self, name: str, opset: int) -> bytes:
        """Return the file's content."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),  # older runtimes refuse the newest
            producer_name="going-deeper-detection",
        )
        return bytes(model.SerializeToString())


def _classifier(checkpoint: Checkpoint) -> _Graph:
    graph = _Graph()
    crops = graph.input("crops", ["n", 3, CROP_SIZE, CROP_SIZE])
    x = _preprocess(graph, crops, checkpoint.preprocessing)
    x = _conv1_to_4e(graph, x, checkpoint.network)
    _pool4_to_results(graph, x, checkpoint.network, checkpoint.head)
    return graph


def _trunk(checkpoint: Checkpoint) -> _Graph:
    graph = _Graph()
    image = graph.input("image", [1, 3, "height", "width"])
    x = _preprocess(graph, image, checkpoint.preprocessing)
    x = _conv1_to_4e(graph, x, checkpoint.network)
    graph.node("Identity", [x], "map")
    graph.output("map", [1, MAP_CHANNELS, "map_height", "map_width"])
    return graph


def _regions(checkpoint: Checkpoint) -> _Graph:
    graph = _Graph()
    points = graph.input("points", ["n", MAP_CHANNELS, POINTS, POINTS])
    _pool4_to_results(graph, points, checkpoint.network, checkpoint.head)
    return graph


def _preprocess(graph: _Graph, x: str, preprocessing: Preprocessing) -> str:
    for operator, name in (("Sub", "mean"), ("Div", "std")):
        values = np.array(getattr(preprocessing, name), np.float32).reshape(1, 3, 1, 1)
        if name == "mean" or (values != 1).any():  # a division by 1 takes its time too
            x = graph.node(operator, [x, graph.constant(name, values)], f"without_{name}")
    return x


def _conv1_to_4e(graph: _Graph, x: str, network: GoogLeNet) -> str:
    paper = network.layout == "paper"
    x = _pool(graph, _convolutions(graph, x, network, "conv1"), "pool1")
    if paper:
        x = _response_norm(graph, x, "norm1", network.conv1.conv.out_channels)
    x = _convolutions(graph, x, network, "conv2", "conv3")
    if paper:
        x = _response_norm(graph, x, "norm2", network.conv3.conv.out_channels)
    x = _pool(graph, x, "pool2")
    x = _inceptions(graph, x, network, "3a", "3b")
    x = _pool(graph, x, "pool3")
    return _inceptions(graph, x, network, "4a", "4b", "4c", "4d", "4e")


def _pool4_to_results(graph: _Graph, x: str, network: GoogLeNet, head: RegionHead) -> None:
    x = _pool(graph, x, "pool4", size=3 if network.layout == "paper" else 2)
    x = _inceptions(graph, x, network, "5a", "5b")
    features = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "average")], "features")
    logits = _linear(graph, features, head.classifier, "logits")
    _probabilities(graph, logits, head)
    graph.output("probabilities", ["n", head.num_classes + 1])
    flat = _linear(graph, features, head.box_regression, "flat_offsets")
    shape = graph.constant("offsets_shape", np.array([0, head.num_classes, 4]))  # 0: as it comes
    graph.node("Reshape", [flat, shape], "box_offsets")
    graph.output("box_offsets", ["n", head.num_classes, 4])


def _probabilities(graph: _Graph, logits: str, head: RegionHead) -> None:
    """Add ``RegionHead.probabilities``."""
    if head.activation == "softmax":
        graph.node("Softmax", [logits], "probabilities", axis=1)
        return
    place = {"first_class": 0, "background": head.num_classes, "class_axis": 1}
    bounds = [graph.constant(name, np.array([value])) for name, value in place.items()]
    class_logits = graph.node("Slice", [logits, *bounds], "class_logits")
    scores = graph.node("Sigmoid", [class_logits], "scores")
    # A pool over the classes, as opset 18 changed what ReduceMax takes.
    size = [head.num_classes]
    row = graph.node("Unsqueeze", [scores, bounds[2]], "row_of_scores")
    pooled = graph.node("MaxPool", [row], "row_of_best", kernel_shape=size)
    best = graph.node("Squeeze", [pooled, bounds[2]], "best")
    one = graph.constant("one", np.ones(1, np.float32))
    graph.node("Concat", [scores, graph.node("Sub", [one, best], "rest")], "probabilities", axis=1)


def _convolutions(graph: _Graph, x: str, network: GoogLeNet, *names: str) -> str:
    """Add a chain of ``ConvReLU``, batch normalisation folded into the weights."""
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, ConvReLU)
        weight, bias = layer.folded()
        conv = layer.conv
        x = graph.node(
            "Conv",
            [x, graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)],
            name,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[int(side) for side in conv.padding] * 2,
        )
        x = graph.node("Relu", [x], f"{name}.relu")
    return x


def _inceptions(graph: _Graph, x: str, network: GoogLeNet, *blocks: str) -> str:
    for name in (f"inception{block}" for block in blocks):
        pooled = _pool(graph, x, f"{name}.pool", stride=1, padding=1)
        branches = [
            _convolutions(graph, x, network, f"{name}.branch1"),
            _convolutions(graph, x, network, f"{name}.branch2.0", f"{name}.branch2.1"),
            _convolutions(graph, x, network, f"{name}.branch3.0", f"{name}.branch3.1"),
            _convolutions(graph, pooled, network, f"{name}.branch4.1"),
        ]
        x = graph.node("Concat", branches, name, axis=1)
    return x


def _pool(
    graph: _Graph, x: str, name: str, *, size: int = 3, stride: int = 2, padding: int = 0
) -> str:
    return graph.node(
        "MaxPool",
        [x],
        name,
        kernel_shape=[size, size],
        strides=[stride, stride],
        pads=[padding] * 4,
        ceil_mode=1,
    )


def _response_norm(graph: _Graph, x: str, name: str, channels: int) -> str:
    """Add ``local_response_norm``, by a band matrix as there.

    ONNX has an operator LRN, for which onnxruntime takes 17 ms a crop in place of 3.
    """
    index = np.arange(channels)
    band = (np.abs(index[:, None] - index) <= 2).astype(np.float32)[:, :, None, None]
    weights = [
        graph.constant(f"{name}.weight", band * np.float32(1e-4 / 5)),
        graph.constant(f"{name}.bias", np.ones(channels, np.float32)),
    ]
    square = graph.node("Mul", [x, x], f"{name}.square")
    total = graph.node("Conv", [square, *weights], f"{name}.sum", kernel_shape=[1, 1])
    root = graph.node("Sqrt", [total], f"{name}.root")
    fourth = graph.node("Sqrt", [root], f"{name}.fourth_root")
    return graph.node("Div", [x, graph.node("Mul", [root, fourth], f"{name}.divisor")], name)


def _linear(graph: _Graph, x: str, layer: nn.Linear, name: str) -> str:
    weights = [
        graph.constant(f"{name}.weight", layer.weight),
        graph.constant(f"{name}.bias", layer.bias),
    ]
    return graph.node("Gemm", [x, *weights], name, transB=1)
