"""A Conv, ConvTranspose, Gemm or MatMul and its weight: which axes make and take channels, and the same as a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from .graph import Constant, GraphIndex
from .nodes import attribute
from .tensors import is_floating

CONVOLUTIONS = ("Conv", "ConvTranspose")
MATRIX_PRODUCTS = ("Gemm", "MatMul")
WEIGHT_OPS = CONVOLUTIONS + MATRIX_PRODUCTS


@dataclass(frozen=True)
class WeightLayer:
    """One layer, as `output = rows @ matrix.T + bias`.

    `weight`: the constant in input `weight_slot`. `bias`: the constant in the third input, None where it is missing or
    computed.
    """

    node: onnx.NodeProto
    weight: Constant
    weight_slot: int
    bias: Constant | None

    @property
    def name(self) -> str:
        """The output, which names the layer."""
        return self.node.output[0]

    @property
    def data(self) -> str:
        """Name of the activation that the weight multiplies."""
        return self.node.input[1 - self.weight_slot]

    @property
    def is_convolution(self) -> bool:
        """Whether channels are axis 1 and space follows."""
        return self.node.op_type in CONVOLUTIONS

    @property
    def transposed(self) -> bool:
        """Whether this is a ConvTranspose, whose weight has its inputs first."""
        return self.node.op_type == "ConvTranspose"

    @cached_property
    def groups(self) -> int:
        """Convolution groups."""
        return attribute(self.node, "group", 1) if self.is_convolution else 1

    @cached_property
    def alpha(self) -> float:
        """Gemm's factor of the product."""
        return float(attribute(self.node, "alpha", 1.0)) if self.node.op_type == "Gemm" else 1.0

    @cached_property
    def beta(self) -> float:
        """Gemm's factor of the bias."""
        return float(attribute(self.node, "beta", 1.0)) if self.node.op_type == "Gemm" else 1.0

    @property
    def has_bias_slot(self) -> bool:
        """Whether the operator takes a bias as its third input."""
        return self.node.op_type != "MatMul"

    @property
    def data_axis(self) -> int:
        """The axis of the data that is summed over."""
        if self.is_convolution:
            return 1
        flipped = bool(attribute(self.node, "transA" if self.weight_slot == 1 else "transB", 0))
        return -2 if flipped == (self.weight_slot == 1) else -1

    @property
    def channel_axis(self) -> int:
        """The axis of the output that holds its channels."""
        return 1 if self.is_convolution else -1 if self.weight_slot == 1 else -2

    @property
    def input_axis(self) -> int:
        """The weight's axis of inputs, of its last two or, of convolutions, its first two."""
        if self.is_convolution:
            return 0 if self.transposed else 1
        flipped = bool(attribute(self.node, "transB" if self.weight_slot == 1 else "transA", 0))
        return -1 if flipped == (self.weight_slot == 1) else -2

    @property
    def output_axis(self) -> int:
        """The weight's axis of outputs; see `input_axis`."""
        return 1 - self.input_axis if self.is_convolution else -3 - self.input_axis

    @cached_property
    def is_rows(self) -> bool:
        """Whether `matrix` describes it all: the weight is on the right of a product, ConvTranspose is plain."""
        if self.node.op_type == "Conv":
            return True
        if self.transposed:
            padded = attribute(self.node, "auto_pad", b"NOTSET") == b"NOTSET"
            return self.groups == 1 and padded and attribute(self.node, "output_shape") is None
        return self.weight_slot == 1 and not attribute(self.node, "transA", 0) and self.alpha != 0

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """A weight as float64 (groups, outputs per group, inputs of a row); a convolution's inputs tap by tap."""
        value = weight.astype(np.float64)
        if self.is_convolution:
            value = np.swapaxes(value, 0, 1) if self.transposed else value
            return np.moveaxis(value, 1, -1).reshape(self.groups, len(value) // self.groups, -1)
        return np.moveaxis(value, self.output_axis, 0)[None] * self.alpha

    def weight_like(self, matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`: a weight of the shape of `weight`, float64."""
        if self.is_convolution:
            first, second, *kernel = weight.shape
            outputs, channels = (second, first) if self.transposed else (first, second)
            value = np.moveaxis(matrix.reshape(outputs, *kernel, channels), -1, 1)
            return np.swapaxes(value, 0, 1) if self.transposed else value
        return np.moveaxis(matrix[0] / self.alpha, 0, self.output_axis)

    def channels_read(self, weight: np.ndarray) -> int:
        """How many input channels one output of this weight sums over."""
        return weight.shape[self.input_axis]

    def inputs(self, weight: np.ndarray) -> int:
        """How many inputs a row has: those channels at every tap of the kernel."""
        return self.channels_read(weight) * (math.prod(weight.shape[2:]) if self.is_convolution else 1)

    def pairs(self, data: np.ndarray, output: np.ndarray) -> bool:
        """Whether `data`, of another model, can be what made `output`: of as many samples, for matrices rows."""
        axes = 1 if self.is_convolution else -1
        return data.shape[:axes] == output.shape[:axes]


def weight_layer(index: GraphIndex, node: onnx.NodeProto) -> WeightLayer | None:
    """`node` as a WeightLayer; None where it is none, or multiplies no constant of a floating-point type.

    Matrices have two axes here: batches of them are not described.
    """
    if node.op_type not in WEIGHT_OPS or len(node.input) < 2:
        return None
    for slot in (1, 0) if node.op_type in MATRIX_PRODUCTS else (1,):
        weight = index.constant(node.input[slot])
        if weight is None or not is_floating(index.model.weights[weight.name]):
            continue
        if node.op_type in MATRIX_PRODUCTS and index.model.weights[weight.name].ndim != 2:
            return None
        bias = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return WeightLayer(node, weight, slot, bias)
    return None
