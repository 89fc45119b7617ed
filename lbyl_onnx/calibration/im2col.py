"""What a weight layer reads for one output value, as rows: patches of a convolution's input, rows of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

MATRIX_OPS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class LinearNode:
    """A Conv, ConvTranspose, Gemm or MatMul with a constant weight, as `output = rows @ matrix.T + bias`.

    `data_slot`, `weight_slot`: its inputs. `groups`: convolution groups. `alpha`: Gemm's factor.
    """

    node: onnx.NodeProto
    data_slot: int
    weight_slot: int
    groups: int = 1

    @property
    def data(self) -> str:
        """Name of the activation read."""
        return self.node.input[self.data_slot]

    @property
    def weight(self) -> str:
        """Name of the weight."""
        return self.node.input[self.weight_slot]

    @property
    def output(self) -> str:
        """Name of the output."""
        return self.node.output[0]

    @property
    def is_convolution(self) -> bool:
        """Whether channels are axis 1 and space follows."""
        return self.node.op_type in ("Conv", "ConvTranspose")

    @property
    def transposed(self) -> bool:
        """Whether this is a ConvTranspose, whose weight has its inputs first."""
        return self.node.op_type == "ConvTranspose"

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes by name."""
        return {attribute.name: helper.get_attribute_value(attribute) for attribute in self.node.attribute}

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight as float64 (groups, outputs per group, inputs of a row); a convolution's inputs tap by tap."""
        value = weight.astype(np.float64)
        if self.is_convolution:
            value = np.swapaxes(value, 0, 1) if self.transposed else value
            return np.moveaxis(value, 1, -1).reshape(self.groups, len(value) // self.groups, -1)
        return (value if self._outputs_first else value.T)[None] * self._alpha

    def channels_read(self, weight: np.ndarray) -> int:
        """How many input channels one output of this weight sums over."""
        return weight.shape[0 if self.transposed or not (self.is_convolution or self._outputs_first) else 1]

    def inputs(self, weight: np.ndarray) -> int:
        """How many inputs a row has: those channels at every tap of the kernel."""
        return self.channels_read(weight) * (math.prod(weight.shape[2:]) if self.is_convolution else 1)

    def pairs(self, data: np.ndarray, output: np.ndarray) -> bool:
        """Whether `data`, of another model, can be what made `output`: of as many samples, for matrices rows."""
        axes = 1 if self.is_convolution else -1
        return data.shape[:axes] == output.shape[:axes]

    def weight_like(self, matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`: a weight of the shape and type of `weight`."""
        if self.is_convolution:
            first, second, *kernel = weight.shape
            outputs, channels = (second, first) if self.transposed else (first, second)
            value = np.moveaxis(matrix.reshape(outputs, *kernel, channels), -1, 1)
            value = np.swapaxes(value, 0, 1) if self.transposed else value
            return np.ascontiguousarray(value.astype(weight.dtype))
        value = matrix[0] / self._alpha
        return np.ascontiguousarray((value if self._outputs_first else value.T).astype(weight.dtype))

    @property
    def _alpha(self) -> float:
        return float(self.attributes.get("alpha", 1.0)) if self.node.op_type == "Gemm" else 1.0  # type: ignore[arg-type]

    @property
    def _outputs_first(self) -> bool:
        """Whether the weight's first axis is the output."""
        transposed = self.attributes.get("transB" if self.weight_slot == 1 else "transA", 0)
        return bool(transposed) if self.weight_slot == 1 else not transposed


def linear_node(node: onnx.NodeProto, weights: dict[str, np.ndarray]) -> LinearNode | None:
    """`node` as a LinearNode; None where it is none, or of a form that rows do not describe."""
    if len(node.input) < 2 or node.input[1] not in weights:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        return LinearNode(node, 0, 1, attributes.get("group", 1))
    if node.op_type == "ConvTranspose":
        plain = attributes.get("group", 1) == 1 and "output_shape" not in attributes
        return LinearNode(node, 0, 1) if plain and attributes.get("auto_pad", b"NOTSET") == b"NOTSET" else None
    if node.op_type in MATRIX_OPS and weights[node.input[1]].ndim == 2:
        readable = not attributes.get("transA") and attributes.get("alpha", 1.0) != 0
        return LinearNode(node, 0, 1) if readable else None
    return None


def position_count(output: np.ndarray, layer: LinearNode) -> int:
    """How many positions (rows) an output of `layer` has."""
    channels = output.shape[1] if layer.is_convolution else output.shape[-1]
    return output.size // channels


def rows_at(output: np.ndarray, layer: LinearNode, positions: np.ndarray) -> np.ndarray:
    """An output of `layer` at some of its positions, (rows, channels)."""
    if not layer.is_convolution:
        return output.reshape(-1, output.shape[-1])[positions]
    sample, place = np.divmod(positions, int(np.prod(output.shape[2:])))
    return output.reshape(*output.shape[:2], -1)[sample, :, place]


def sample_rows(
    layer: LinearNode, data: np.ndarray, kernel: tuple[int, ...], positions: np.ndarray, output_shape: tuple[int, ...]
) -> np.ndarray:
    """Rows that the layer multiplies at some output positions, in the data's type (groups, rows, inputs of a row).

    `positions`: int64, indices into the output's (samples, *space), flattened; for matrices, rows of the data.
    `kernel`: the weight's spatial shape. Zero padding enters the rows as zeros, so borders are exact.
    """
    if not layer.is_convolution:
        return data.reshape(-1, data.shape[-1])[positions][None]
    attributes, space, size = layer.attributes, output_shape[2:], data.shape[2:]
    strides = attributes.get("strides") or [1] * len(space)
    dilations = attributes.get("dilations") or [1] * len(space)
    padding = _padding(attributes, size, kernel, space, strides, dilations)  # type: ignore[arg-type]
    sample, *place = np.unravel_index(positions, (len(data), *space))
    taps = np.indices(kernel).reshape(len(kernel), -1)
    read, inside = [], np.ones((len(positions), taps.shape[1]), bool)
    for axis, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):  # type: ignore[call-overload]
        at, tap = place[axis][:, None], taps[axis] * dilation - padding[axis]
        source, off = np.divmod(at - tap, stride) if layer.transposed else (at * stride + tap, 0)
        inside &= (source >= 0) & (source < size[axis]) & (off == 0)
        read.append(np.clip(source, 0, size[axis] - 1))
    flat = np.ravel_multi_index((np.broadcast_to(sample[:, None], inside.shape), *read), (len(data), *size))
    channels_last = np.ascontiguousarray(np.moveaxis(data, 1, -1))
    rows = channels_last.reshape(-1, data.shape[1]).take(flat, axis=0)
    rows[~inside] = 0
    split = rows.reshape(*flat.shape, layer.groups, -1)
    return np.moveaxis(split, 2, 0).reshape(layer.groups, len(positions), -1)


def _padding(
    attributes: dict[str, object],
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
) -> list[int]:
    """Zeros before each spatial axis, as `pads` or `auto_pad` say."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max((o - 1) * s + (k - 1) * d + 1 - n, 0)
            for o, s, k, d, n in zip(output, strides, kernel, dilations, size, strict=True)
        ]
        return [t // 2 if mode == b"SAME_UPPER" else t - t // 2 for t in total]
    return list(attributes.get("pads") or [0] * len(size))[: len(size)]  # type: ignore[call-overload]
