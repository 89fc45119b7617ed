"""A producer together with the per-channel affine operators that follow it, folded into one linear layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.nodes import attribute
from ..model.weight_layer import CONVOLUTIONS, MATRIX_PRODUCTS, WEIGHT_OPS
from .groups import ChannelGroup, WeightAxis

_PASS = ("Identity", "Dropout")
_BIASED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class ProducerLayer:
    """A producer's filters in folded form: channel i computes `scale[i] * (filters[i] . x +
    bias[i]) + shift[i]`.

    `filters`: float64 (channels, d); `bias`, `scale`, `shift`: float64 (channels,). `normalised`: a
    BatchNormalization was folded. `gamma`: its γ, float64 (channels,), or None. `constants`: names of all constants
    folded. `output`: the tensor that the layer ends in.
    """

    axis: WeightAxis
    filters: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    output: str
    gamma: np.ndarray | None = None
    constants: frozenset[str] = frozenset()

    @property
    def normalised(self) -> bool:
        """Whether a BatchNormalization follows the producer."""
        return self.gamma is not None

    @property
    def is_matrix(self) -> bool:
        """Whether this is a fully connected layer without BatchNormalization."""
        return self.axis.op in MATRIX_PRODUCTS and not self.normalised

    @property
    def folded_filters(self) -> np.ndarray:
        """w, float64 (channels, d)."""
        return self.filters * self.scale[:, None]

    @property
    def folded_bias(self) -> np.ndarray:
        """b, float64 (channels,)."""
        return self.scale * self.bias + self.shift


class FoldedReader:
    """Reads producers of one model as folded layers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._index = GraphIndex(model)

    def read(self, producer: WeightAxis) -> ProducerLayer | None:
        """The folded layer of `producer`; None where its weight cannot be read."""
        node = self._index.nodes[producer.node]
        if producer.weight is None:
            return None
        value = producer.weight.read(self._model).astype(np.float64) * attribute(node, "alpha", 1.0)
        filters = np.moveaxis(value, producer.axis, 0).reshape(value.shape[producer.axis], -1)
        ones, zeros = np.ones(len(filters)), np.zeros(len(filters))
        layer = ProducerLayer(
            producer, filters, zeros, ones, zeros, node.output[0], constants=frozenset([producer.weight.name])
        )
        if node.op_type in _BIASED and len(node.input) > 2 and node.input[2]:
            layer = self._with_bias(layer, node)
        while (following := self._following(layer)) is not None:
            layer = following
        return layer

    def single(self, group: ChannelGroup) -> ProducerLayer | str:
        """The layer that alone makes a group's channels, one filter for each unit; why there is none, where so."""
        if len(group.producers) > 1:
            return "several producers make these channels"
        (producer,) = group.producers
        if producer.weight is not None and not producer.weight.exclusive:
            return f"the weight of {producer.name!r} is shared with other nodes"
        layer = self.read(producer)
        if layer is None:
            return f"the weight of {producer.name!r} is computed"
        units = layer.axis.units
        if len(layer.filters) != group.units or len(np.unique(units)) != group.units or units.min() < 0:
            return "a unit has several filters"
        return layer

    def _with_bias(self, layer: ProducerLayer, node: onnx.NodeProto) -> ProducerLayer:
        found = self._index.constant(node.input[2])
        after = self._axes_after(layer.axis) if node.op_type == "Gemm" else 0
        bias = None if found is None else self._per_channel(layer, found.read(self._model), after)
        if found is None or bias is None:
            return layer
        return replace(layer, bias=bias * attribute(node, "beta", 1.0), constants=layer.constants | {found.name})

    def _axes_after(self, producer: WeightAxis) -> int | None:
        """How many axes follow the channels in the producer's output; None where that is not known."""
        if producer.weight is None or producer.op not in WEIGHT_OPS:
            return None
        if producer.op in CONVOLUTIONS:
            return self._model.weights[producer.weight.name].ndim - 2
        return 0 if producer.slot == 1 else 1

    def _per_channel(self, layer: ProducerLayer, value: np.ndarray, after: int | None) -> np.ndarray | None:
        """One value a channel, float64 (channels,), of a constant that is broadcast to channels with `after` axes
        behind them; None where it varies along another axis."""
        channels = len(layer.filters)
        along = after is not None and value.ndim > after and value.shape[value.ndim - 1 - after] == channels
        if value.size != 1 and (value.size != channels or not along):
            return None
        return np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))

    def _following(self, layer: ProducerLayer) -> ProducerLayer | None:
        """The layer with the next operator folded in; None where that is not affine per channel."""
        node = self._index.reader(layer.output)
        if node is None:
            return None
        if node.op_type in _PASS:
            return replace(layer, output=node.output[0])
        if node.op_type == "BatchNormalization" and node.input[0] == layer.output and not layer.normalised:
            return self._normalised(layer, node)
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
            return None
        other = node.input[1] if node.input[0] == layer.output else node.input[0]
        found = self._index.constant(other)
        value = (
            None if found is None else self._per_channel(layer, found.read(self._model), self._axes_after(layer.axis))
        )
        if found is None or value is None or (node.op_type in ("Sub", "Div") and node.input[0] != layer.output):
            return None
        sign = -1.0 if node.op_type == "Sub" else 1.0
        if node.op_type in ("Add", "Sub"):
            plain = (layer.scale == 1).all() and not layer.shift.any()
            if plain:
                layer = replace(layer, bias=layer.bias + sign * value)
            else:
                layer = replace(layer, shift=layer.shift + sign * value)
        else:
            factor = value if node.op_type == "Mul" else 1 / value
            layer = replace(layer, scale=layer.scale * factor, shift=layer.shift * factor)
        return replace(layer, output=node.output[0], constants=layer.constants | {found.name})

    def _normalised(self, layer: ProducerLayer, node: onnx.NodeProto) -> ProducerLayer | None:
        found = [constant for name in node.input[1:5] if (constant := self._index.constant(name)) is not None]
        if len(found) < 4:
            return None
        gamma, beta, mean, variance = (constant.read(self._model).astype(np.float64) for constant in found)
        factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return replace(
            layer,
            scale=layer.scale * factor,
            shift=beta + (layer.shift - mean) * factor,
            gamma=gamma,
            output=node.output[0],
            constants=layer.constants | {constant.name for constant in found},
        )
