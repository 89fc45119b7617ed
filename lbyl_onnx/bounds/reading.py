"""Reads a model as a stretch: layers in a row, what lies between them, and moments of what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.session import feed_batches, open_session, rows_of, run
from ..model.weight_layer import WeightLayer, weight_layer
from ..options import RunOptions
from .lipschitz import MIXING, NotCovered, Shapes, convolution, lipschitz, normalisation
from .operators import Linear
from .propagation import Layer, Stretch

MOST_FEATURES = 6000
"""Inputs of a fully connected layer whose second moments are taken."""


@dataclass
class _Found:
    """A layer as the graph has it. `data`: the tensor that it reads; `output`: that it makes, times `scale` and plus
    `shift` a channel; `lipschitz`: see `Layer`."""

    layer: WeightLayer
    data: str
    output: str
    lipschitz: float
    scale: np.ndarray
    shift: np.ndarray


class _Moments:
    """Sums over samples of what `Layer` holds of one layer."""

    def __init__(self, found: _Found, features: int) -> None:
        self.found = found
        self.energies = np.zeros(features)
        self.effect = 0.0
        self.second: np.ndarray | None = None

    def add(self, data: np.ndarray, made: np.ndarray) -> None:
        """One more batch of what the layer reads and makes, float64, first axis = samples."""
        shift = self.found.shift.reshape(-1, *[1] * (made.ndim - 2))
        self.effect += float(((made - shift) ** 2).sum())
        self.energies += (data**2).sum(axis=(0, *range(2, data.ndim)))
        if data.ndim == 2:
            self.second = data.T @ data + (0 if self.second is None else self.second)


def read_stretch(model: Model, inputs: Mapping[str, np.ndarray], runtime: RunOptions) -> Stretch:
    """The layers of a model that is one row from its input to its output, with the moments over `inputs`, an array by
    name, first axis = samples.

    Covered are Conv, whole or depthwise, Gemm and MatMul of rows with constant weights, and between them what
    `bounds.lipschitz` knows. Raises NotCovered, which names the node, for all else.
    """
    index = GraphIndex(model)
    steps = _steps(index, inputs)
    output = model.proto.graph.output[0].name
    shapes = _shapes(model, inputs, [*(value for _, value in steps), output], runtime)
    found, factor, mixed = list[_Found](), 1.0, ""
    for node, value in steps:
        layer = weight_layer(index, node)
        if layer is not None and layer.data == value and _is_whole(layer, shapes[value]):
            if mixed or shapes[value][0] != shapes[steps[0][1]][0]:
                raise NotCovered(f"{mixed or value} makes units depend on one another, or samples")
            scale, shift = np.ones(shapes[node.output[0]][1]), _bias(index, layer, shapes)
            found.append(_Found(layer, value, node.output[0], factor, scale, shift))
            factor = 1.0
        elif node.op_type == "BatchNormalization" and found and value == found[-1].output:
            last, (scale, shift) = found[-1], normalisation(index, node)
            last.scale, last.shift, last.output = last.scale * scale, last.shift * scale + shift, node.output[0]
        else:
            factor *= lipschitz(index, node, value, shapes)
            mixed = f"{node.name!r} ({node.op_type})" if node.op_type in MIXING else mixed
    if not found:
        raise NotCovered(f"{model.name}: has no layer with constant weights")
    moments, samples = _measured(model, inputs, found, shapes, runtime)
    before: list[_Found | None] = [None, *found[:-1]]
    layers = (_layer(model, each, shapes, samples, made_by) for each, made_by in zip(moments, before, strict=True))
    return Stretch(tuple(layers), factor, output, samples)


def _steps(index: GraphIndex, inputs: Mapping[str, np.ndarray]) -> list[tuple[onnx.NodeProto, str]]:
    """The nodes from the one input to the one output, each with the value that it reads."""
    graph = index.model.proto.graph
    if len(inputs) != 1 or len(graph.output) != 1:
        raise NotCovered(f"{index.model.name}: bounds are for models with one input and one output")
    (value,) = inputs
    steps = []
    while value != graph.output[0].name:
        node = index.reader(value)
        if node is None:
            raise NotCovered(f"{value!r} is read by more than one node; bounds are for layers in a row")
        steps.append((node, value))
        value = node.output[0]
    return steps


def _is_whole(layer: WeightLayer, shape: tuple[int, ...]) -> bool:
    """Whether this is a layer of its own; a depthwise convolution acts on single channels."""
    if layer.node.op_type == "Conv":
        if layer.groups not in (1, shape[1]):
            raise NotCovered(f"{layer.node.name!r} is a grouped convolution; bounds are for whole and depthwise ones")
        return layer.groups == 1
    if layer.transposed or not layer.is_rows or len(shape) != 2:
        raise NotCovered(f"{layer.node.name!r} ({layer.node.op_type}) is no convolution and no product of rows")
    return True


def _bias(index: GraphIndex, layer: WeightLayer, shapes: Shapes) -> np.ndarray:
    channels = shapes[layer.node.output[0]][1]
    if len(layer.node.input) < 3 or not layer.node.input[2]:
        return np.zeros(channels)
    if layer.bias is None:
        raise NotCovered(f"the bias of {layer.node.name!r} is no constant")
    return np.broadcast_to(layer.bias.read(index.model).astype(np.float64).reshape(-1) * layer.beta, (channels,))


def _layer(model: Model, moments: _Moments, shapes: Shapes, samples: int, before: _Found | None) -> Layer:
    """The layer with its moments, behind the one `before`, whose channels are its units."""
    found = moments.found
    read = found.layer.weight.read(model)
    shape = shapes[found.data]
    if found.layer.is_convolution:
        weight = read.astype(np.float64) * found.scale.reshape(-1, *[1] * (read.ndim - 1))
        linear = convolution(found.layer.node, weight, shape)
    else:
        linear = Linear(found.layer.matrix(read)[0] * found.scale[:, None], np.arange(shape[1]))
    if before is not None:
        channels = len(before.scale)
        if shape[1] % channels or (linear.space and shape[1] != channels):
            raise NotCovered(f"{found.layer.node.name!r} reads {shape[1]} features, made by {channels} units")
        linear = replace(linear, units=np.arange(shape[1]) * channels // shape[1])
    second = None if moments.second is None else moments.second / samples
    return Layer(
        found.layer.node.name or found.output,
        linear,
        moments.energies / samples,
        moments.effect / samples,
        second,
        found.lipschitz,
        None if before is None else before.layer.node.name or before.output,
    )


def _exposed(model: Model, names: list[str]) -> Model:
    """The model with these values as its outputs."""
    result = model.copy()
    del result.proto.graph.output[:]
    result.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return result


def _shapes(model: Model, inputs: Mapping[str, np.ndarray], names: list[str], runtime: RunOptions) -> Shapes:
    """The shape of each value in a run of the first samples."""
    wanted = [name for name in dict.fromkeys(names) if name not in inputs]
    session = open_session(_exposed(model, wanted), runtime, optimise=False)
    feed = next(feed_batches(session, dict(inputs), 1))
    values = zip(wanted, run(session, feed), strict=True)
    return {name: np.shape(value) for name, value in [*values, *feed.items()]}


def _measured(
    model: Model, inputs: Mapping[str, np.ndarray], found: list[_Found], shapes: Shapes, runtime: RunOptions
) -> tuple[list[_Moments], int]:
    """The sums of all layers, and over how many samples."""
    wide = next((each for each in found if len(shapes[each.data]) == 2 and shapes[each.data][1] > MOST_FEATURES), None)
    if wide is not None:
        raise NotCovered(f"{wide.layer.node.name!r} reads {shapes[wide.data][1]} features, more than {MOST_FEATURES}")
    sums = [_Moments(each, shapes[each.data][1]) for each in found]
    names = dict.fromkeys(name for each in found for name in (each.data, each.output) if name not in inputs)
    session = open_session(_exposed(model, list(names)), runtime, optimise=False)
    samples = 0
    for feed in feed_batches(session, dict(inputs)):
        values = {**dict(zip(names, run(session, feed), strict=True)), **feed}
        samples += rows_of(feed)
        for each in sums:
            each.add(*(values[name].astype(np.float64) for name in (each.found.data, each.found.output)))
    return sums, samples
