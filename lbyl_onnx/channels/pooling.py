"""What lies in front of a global mean over positions: the same channels, at every position."""

from __future__ import annotations

import math

import numpy as np
import onnx

from ..model.graph import GraphIndex
from ..model.nodes import attribute
from .groups import Analysis

RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")


def before_pooling(analysis: Analysis, index: GraphIndex, name: str, axis: int) -> tuple[str, int] | None:
    """The tensor whose mean over all positions is `name`, and its channel axis, where that holds the very channels that
    `name` has on `axis`; None where there is no such mean.

    A layer that reads the mean is linear in it, so what makes up for a channel at every position makes up for it in
    the mean, and one sample gives a row for each position instead of a single one.
    """
    axes = analysis.labelling.axes.get(name)
    labels = axes[axis] if axes else None
    maker = index.maker(name)
    while maker is not None and maker.op_type in RESHAPING:
        name = maker.input[0]
        maker = index.maker(name)
    if labels is None or maker is None:
        return None
    for place, found in enumerate(analysis.labelling.axes.get(maker.input[0], ())):
        if found is not None and np.array_equal(found, labels) and _averages_others(analysis, maker, place):
            return maker.input[0], place
    return None


def _averages_others(analysis: Analysis, node: onnx.NodeProto, channels: int) -> bool:
    """Whether each output of `node` is the mean of all that one sample has of one channel, which are on that axis."""
    before, after = (analysis.probe.tensors[name].shape for name in (node.input[0], node.output[0]))
    if channels == 0 or 0 in before:
        return False
    positions = math.prod(before) // (before[0] * before[channels])
    if math.prod(after) * positions != math.prod(before):
        return False
    if node.op_type == "AveragePool":
        whole = tuple(attribute(node, "kernel_shape")) == before[2:]
        return whole and not any(attribute(node, "pads", ()))
    return node.op_type in ("GlobalAveragePool", "ReduceMean")
