"""Multiply-accumulates of single nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from ..model.nodes import attribute


def node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one run of `node`, from the shapes of its inputs and outputs; 0 for all but
    convolutions and matrix products."""
    if node.op_type in ("Conv", "ConvInteger", "FusedConv"):
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger", "FusedGemm", "FusedMatMul"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if attribute(node, "transA", 0) else -1]
    return 0
