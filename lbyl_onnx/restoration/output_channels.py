"""Where the output channels of a weight layer can be scaled and shifted, by changing constants alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ..model.graph import Constant, GraphIndex
from ..model.model import Model
from ..model.weight_layer import WeightLayer, weight_layer


@dataclass(frozen=True)
class OutputChannels:
    """The places for a layer's scale and shift.

    `bias`: the layer's own bias constant, None if it has none. `shift_after`: a constant of the next node that takes a
    shift, and `sign`, how (+1: an Add's vector, -1: a BatchNormalization's running mean). `vacant`: the layer takes a
    bias as its third input and has none.
    """

    layer: WeightLayer
    bias: Constant | None = None
    shift_after: Constant | None = None
    sign: float = 1.0
    vacant: bool = False

    @property
    def name(self) -> str:
        """The layer's output."""
        return self.layer.name

    @property
    def axis(self) -> int:
        """The channel axis of the output."""
        return self.layer.channel_axis

    @property
    def takes_shift(self) -> bool:
        """Whether there is any place for a shift."""
        return self.bias is not None or self.shift_after is not None or self.vacant


def output_channels(index: GraphIndex, node: onnx.NodeProto) -> OutputChannels | None:
    """Places for `node`; None where it is no layer whose weight makes single channels, or its weight or bias is not a
    constant of its own."""
    layer = weight_layer(index, node)
    if layer is None or layer.weight_slot != 1 or (layer.transposed and layer.groups > 1):
        return None
    if not layer.weight.exclusive or layer.beta == 0:
        return None
    channels = layer.weight.read(index.model).shape[layer.output_axis]
    if len(node.input) > 2 and node.input[2]:
        bias = index.own_constant(node.input[2])
        return OutputChannels(layer, bias) if bias is not None and _is_vector(index, bias, channels) else None
    after, sign = _shift_after(index, layer, channels)
    return OutputChannels(layer, None, after, sign, vacant=after is None and layer.has_bias_slot)


def _shift_after(index: GraphIndex, layer: WeightLayer, channels: int) -> tuple[Constant | None, float]:
    """A constant behind `layer` that shifts its channels: they are axis 1 for BatchNormalization, which MatMul's
    need not be, and the last axis for an Add of a vector, which those of convolutions are not."""
    node = index.reader(layer.name)
    if node is None:
        return None, 1.0
    if node.op_type == "BatchNormalization" and layer.has_bias_slot:
        return index.own_constant(node.input[3]), -1.0
    if node.op_type == "Add" and not layer.is_convolution:
        other = node.input[1] if node.input[0] == layer.name else node.input[0]
        constant = index.own_constant(other)
        if constant is not None and _is_vector(index, constant, channels):
            return constant, 1.0
    return None, 1.0


def _is_vector(index: GraphIndex, constant: Constant, channels: int) -> bool:
    """Whether a constant has one value for each of the channels, along its last axis."""
    value = constant.read(index.model)
    return value.size == channels and value.shape[-1:] == (channels,)


def rescale(model: Model, place: OutputChannels, scale: np.ndarray, shift: np.ndarray) -> None:
    """Multiply each output channel by `scale` and add `shift`, both float64 (channels,), wherever there is a place."""
    layer = place.layer
    weight = layer.weight.read(model)
    along = [1] * weight.ndim
    along[layer.output_axis] = -1
    layer.weight.write(model, weight * scale.reshape(along))
    if place.bias is not None:
        bias = place.bias.read(model)
        place.bias.write(model, (bias.reshape(-1) * scale + shift / layer.beta).reshape(bias.shape))
    elif place.shift_after is not None:
        after = place.shift_after.read(model)
        place.shift_after.write(model, (after.reshape(-1) + place.sign * shift).reshape(after.shape))
    elif place.vacant:
        node = next(node for node in model.proto.graph.node if place.name in node.output)
        name = model.free_name(f"{place.name}_bias")
        model.add(name, (shift / layer.beta).astype(weight.dtype))
        node.input[:] = [*node.input[:2], name]
