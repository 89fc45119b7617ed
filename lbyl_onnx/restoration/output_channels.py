"""Scale and shift the output channels of a weight layer, by changing constants alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx

from ..channels.groups import is_floating
from ..model.file import Model, reads


@dataclass(frozen=True)
class OutputChannels:
    """Where a weight layer's output channels can be changed.

    `weight`, `weight_axis`: the weight and its output axis. `axis`: the channel axis of the output. `bias`: the
    layer's own bias constant, None if it has none; `beta`: the factor that Gemm gives it. `shift_after`: a constant
    of the next node that takes a shift, and `sign`, how (+1: an Add's vector, -1: a BatchNormalization's running
    mean). `vacant`: the layer takes a bias as its third input and has none.
    """

    name: str
    weight: str
    weight_axis: int
    axis: int
    bias: str | None = None
    beta: float = 1.0
    shift_after: str | None = None
    sign: float = 1.0
    vacant: bool = False

    @property
    def takes_shift(self) -> bool:
        """Whether there is any place for a shift."""
        return self.bias is not None or self.shift_after is not None or self.vacant


class OutputFinder:
    """Finds the places of every layer in one model."""

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        self._model = model
        self._makers = {name: node for node in graph.node for name in node.output}
        self._reader = {name: node for node in graph.node for name in node.input}
        self._readers = Counter(name for node in graph.node for name in reads(node))
        self._readers.update(output.name for output in graph.output)

    def find(self, node: onnx.NodeProto) -> OutputChannels | None:
        """Places for `node`; None where its weight is not a constant of its own, of a floating-point type."""
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        weight = self.own_constant(node.input[1])
        if weight is None or not is_floating(self._model.weights[weight]):
            return None
        output = node.output[0]
        if node.op_type == "Conv":
            axis, weight_axis = 1, 0
        elif node.op_type == "ConvTranspose" and attributes.get("group", 1) == 1:
            axis, weight_axis = 1, 1
        elif node.op_type in ("Gemm", "MatMul") and self._model.weights[weight].ndim == 2:
            axis, weight_axis = -1, 0 if attributes.get("transB", 0) else 1
        else:
            return None
        channels = self._model.weights[weight].shape[weight_axis]
        beta = attributes.get("beta", 1.0)
        if beta == 0:
            return None
        if len(node.input) > 2 and node.input[2]:
            bias = self.own_constant(node.input[2])
            if bias is None or not self._is_vector(bias, channels):
                return None
            return OutputChannels(output, weight, weight_axis, axis, bias, beta)
        after, sign = self._shift_after(node, channels)
        vacant = after is None and node.op_type != "MatMul"
        return OutputChannels(output, weight, weight_axis, axis, None, beta, after, sign, vacant)

    def own_constant(self, name: str) -> str | None:
        """The constant behind `name`, through Identity, if nothing else reads it."""
        while self._readers[name] == 1 and name not in self._model.weights:
            maker = self._makers.get(name)
            if maker is None or maker.op_type != "Identity":
                return None
            name = maker.input[0]
        return name if self._readers[name] == 1 else None

    def _shift_after(self, layer: onnx.NodeProto, channels: int) -> tuple[str | None, float]:
        """A constant behind `layer` that shifts its channels: they are axis 1 for BatchNormalization, which MatMul's
        need not be, and the last axis for an Add of a vector, which those of convolutions are not."""
        output = layer.output[0]
        node = self._reader.get(output)
        if node is None or self._readers[output] != 1:
            return None, 1.0
        if node.op_type == "BatchNormalization" and layer.op_type != "MatMul":
            return self.own_constant(node.input[3]), -1.0
        if node.op_type == "Add" and layer.op_type in ("Gemm", "MatMul"):
            other = node.input[1] if node.input[0] == output else node.input[0]
            constant = self.own_constant(other)
            if constant is not None and self._is_vector(constant, channels):
                return constant, 1.0
        return None, 1.0

    def _is_vector(self, name: str, channels: int) -> bool:
        """Whether a constant has one value for each of the channels, along its last axis."""
        value = self._model.weights[name]
        return value.size == channels and value.shape[-1:] == (channels,)


def rescale(model: Model, place: OutputChannels, scale: np.ndarray, shift: np.ndarray) -> None:
    """Multiply each output channel by `scale` and add `shift`, both float64 (channels,), wherever there is a place."""
    weight = model.weights[place.weight]
    along = [1] * weight.ndim
    along[place.weight_axis] = -1
    model.replace(place.weight, (weight * scale.reshape(along)).astype(weight.dtype))
    if place.bias is not None:
        bias = model.weights[place.bias]
        moved = bias.reshape(-1) * scale + shift / place.beta
        model.replace(place.bias, moved.reshape(bias.shape).astype(bias.dtype))
    elif place.shift_after is not None:
        after = model.weights[place.shift_after]
        moved = after.reshape(-1) + place.sign * shift
        model.replace(place.shift_after, moved.reshape(after.shape).astype(after.dtype))
    elif place.vacant:
        node = next(node for node in model.proto.graph.node if place.name in node.output)
        name = model.free_name(f"{place.name}_bias")
        model.add(name, (shift / place.beta).astype(weight.dtype))
        node.input[:] = [*node.input[:2], name]
