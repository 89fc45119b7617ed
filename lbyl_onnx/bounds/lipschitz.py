"""Lipschitz constants, in the Euclidean norm, of what lies between layers and keeps their units apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx

from ..errors import LbylError
from ..model.graph import GraphIndex
from ..model.nodes import attribute
from .operators import Linear, overlap

Shapes = Mapping[str, tuple[int, ...]]

STEADY = ("Relu", "Tanh", "Softplus", "Softsign", "Clip", "Abs", "Neg", "Identity", "Dropout", "GlobalMaxPool")
RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
COMMUTING = ("Add", "Sub", "Mul")
MIXING = ("Softmax",)
"""Of constant 1 too, but a unit's result depends on the others."""


class NotCovered(LbylError):
    """No bound is known for a model; the message says where it ends."""

    exit_code = 4


def lipschitz(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    """The constant of a node that reads `value`. Raises NotCovered where none is known."""
    if node.input[0] != value and node.op_type not in COMMUTING:
        raise NotCovered(f"{node.name or node.output[0]!r} ({node.op_type}) does not read its data from a layer")
    if node.op_type in (*STEADY, *RESHAPING, *MIXING):
        return 1.0
    if node.op_type not in _KNOWN:
        raise NotCovered(f"{node.name or node.output[0]!r} is a {node.op_type}, for which no bound is known")
    return _KNOWN[node.op_type](index, node, value, shapes)


def normalisation(index: GraphIndex, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift that a BatchNormalization gives each channel, float64 (channels,)."""
    gamma, beta, mean, variance = (_constant(index, node, slot) for slot in range(1, 5))
    if attribute(node, "training_mode", 0):
        raise NotCovered(f"{node.name!r} normalises by the samples")
    factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return factor, beta - mean * factor


def convolution(node: onnx.NodeProto, weight: np.ndarray, shape: tuple[int, ...]) -> Linear:
    """A Conv that reads a value of this `shape` (samples, channels, *space), with each channel as a unit."""
    ones = (1,) * (weight.ndim - 2)
    strides, dilations = (tuple(attribute(node, name, ones)) for name in ("strides", "dilations"))
    return Linear(weight, np.arange(weight.shape[1]), shape[2:], strides, dilations)


def _constant(index: GraphIndex, node: onnx.NodeProto, slot: int) -> np.ndarray:
    found = index.constant(node.input[slot])
    if found is None:
        raise NotCovered(f"input {slot} of {node.name or node.output[0]!r} ({node.op_type}) is no constant")
    return found.read(index.model).astype(np.float64)


def _normalised(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    return float(np.abs(normalisation(index, node)[0]).max())


def _depthwise(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    weight = _constant(index, node, 1)
    return float(convolution(node, np.swapaxes(weight, 0, 1), shapes[value]).unit_norms.max())


def _leaky(default: float) -> Callable[..., float]:
    def constant(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
        return max(1.0, abs(attribute(node, "alpha", default)))

    return constant


def _learned_slope(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    return max(1.0, float(np.abs(_constant(index, node, 1)).max()))


def _arithmetic(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    first = node.input[0] == value
    sizes = np.abs(_constant(index, node, 1 if first else 0))
    if shapes[node.output[0]] != shapes[value] or (node.op_type == "Div" and not first):
        raise NotCovered(
            f"{node.name or node.output[0]!r} ({node.op_type}) does not keep its input's shape, or divides"
        )
    return {"Mul": float(sizes.max()), "Div": 1 / max(float(sizes.min()), 1e-300)}.get(node.op_type, 1.0)


def _pooling(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    """A maximum moves no more than what moves most in its window, a mean by Cauchy and Schwarz; a position counts once
    for each window that it lies in."""
    kernel = tuple(attribute(node, "kernel_shape"))
    ones = (1,) * len(kernel)
    windows = overlap(kernel, tuple(attribute(node, "strides", ones)), tuple(attribute(node, "dilations", ones)))
    plain = not any(attribute(node, "pads", ())) and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    full = node.op_type == "AveragePool" and plain and not attribute(node, "ceil_mode", 0)
    return math.sqrt(windows / (math.prod(kernel) if full else 1))


def _global_mean(index: GraphIndex, node: onnx.NodeProto, value: str, shapes: Shapes) -> float:
    return 1 / math.sqrt(math.prod(shapes[value][2:]))


_KNOWN: dict[str, Callable[..., float]] = {
    "BatchNormalization": _normalised,
    "Conv": _depthwise,
    "LeakyRelu": _leaky(0.01),
    "Elu": _leaky(1.0),
    "PRelu": _learned_slope,
    "Sigmoid": lambda *_: 0.25,
    "HardSigmoid": lambda index, node, *_: abs(attribute(node, "alpha", 0.2)),
    "HardSwish": lambda *_: 1.5,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pooling),
    "GlobalAveragePool": _global_mean,
}
