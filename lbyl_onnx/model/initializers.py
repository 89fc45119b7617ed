"""Vectors that several nodes read only because an exporter stored equal values once.

PyTorch merges equal initializers: layers whose biases are all zero come out reading one constant, often through
Identity nodes. Taken literally, this would tie the channels of every such layer. A vector costs next to nothing, so
each reader gets a copy of its own, and copies that are still equal after surgery become one again. Weights of two or
more dimensions that are read twice are shared on purpose and stay shared.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .model import Model
from .tensors import is_floating


def unshare(model: Model) -> tuple[Model, dict[str, str]]:
    """The model with a copy of each shared vector per reading node, and the origin of each copy by its name."""
    result = model.copy()
    nodes = result.proto.graph.node
    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for name in dict.fromkeys(node.input):
            readers[name].append(index)
    pending = [
        (name, index, f"{name}_copy{number}")
        for name, array in model.weights.items()
        if is_floating(array) and array.size >= 2 and array.size == max(array.shape)
        for number, index in enumerate(readers[name][1:], 1)
    ]
    origins: dict[str, str] = {}
    copies = result.free_names([copy for _, _, copy in pending])
    for copy, (name, index, _) in zip(copies, pending, strict=True):
        origins[copy] = name
        result.add(copy, model.weights[name])
        nodes[index].input[:] = [copy if read == name else read for read in nodes[index].input]
    return result, origins


def reshare(model: Model, origins: dict[str, str]) -> None:
    """Point readers of copies that equal their origin back to it, in place, and drop those copies."""
    weights = model.weights
    same = {
        copy: name
        for copy, name in origins.items()
        if copy in weights and name in weights and np.array_equal(weights[copy], weights[name])
    }
    for node in model.proto.graph.node:
        if not same.keys().isdisjoint(node.input):
            node.input[:] = [same.get(read, read) for read in node.input]
    model.remove(set(same))
