"""Multiply-accumulates of single nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from ..model.nodes import attribute

Shapes = Mapping[str, tuple[int, ...]]


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of one run of `node`, from the shapes of its inputs and outputs; 0 for all but
    convolutions and matrix products."""
    factors = mac_factors(node, shapes)
    return math.prod(shapes[name][axis] for name, axis in factors) if factors else 0


def mac_factors(node: onnx.NodeProto, shapes: Shapes) -> list[tuple[str, int]]:
    """The axes, by tensor, whose lengths multiplied are the multiply-accumulates of `node`; none for a node that has
    no such."""
    if node.op_type in ("Conv", "ConvInteger", "FusedConv"):
        return [*_axes(node.output[0], shapes), *_axes(node.input[1], shapes)[1:]]
    if node.op_type == "ConvTranspose":
        return [*_axes(node.input[0], shapes), *_axes(node.input[1], shapes)[1:]]
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger", "FusedGemm", "FusedMatMul"):
        summed = -2 if attribute(node, "transA", 0) else -1
        return [*_axes(node.output[0], shapes), _axes(node.input[0], shapes)[summed]]
    return []


def _axes(name: str, shapes: Shapes) -> list[tuple[str, int]]:
    return [(name, axis) for axis in range(len(shapes[name]))]
