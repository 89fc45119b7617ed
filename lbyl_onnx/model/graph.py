"""The one index of a graph: who makes a value, who reads it, and which constant stands behind it.

1. A value is read by input slots of nodes, by subgraphs that capture it and by the outputs of the graph; all count.
2. A constant is an initializer or the value of a Constant node, reached through Identities and at most one Cast.
3. What has one reader at every step may be changed for that reader's sake; what has more may only be read.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from .model import Model
from .nodes import attribute, reads
from .tensors import DTYPES, is_floating

PASSING = ("Identity", "Cast")
"""Operators through which a constant is still the same constant."""


QUANTISED_SLOTS = {
    "DequantizeLinear": (0,),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QGemm": (3, 6),
    "DynamicQuantizeMatMul": (1,),
}
"""Inputs in which operators take quantised weights and biases."""


@dataclass(frozen=True)
class Constant:
    """A constant as a node reads it. `name`: of the initializer or Constant node that holds it; `dtype`: what the node
    sees after any Cast; `exclusive`: nothing else reads it."""

    name: str
    dtype: np.dtype
    exclusive: bool

    def read(self, model: Model) -> np.ndarray:
        """Its value in `model` (the indexed one or a copy), of `dtype`."""
        return model.weights[self.name].astype(self.dtype, copy=False)

    def write(self, model: Model, value: np.ndarray) -> None:
        """Give it a new value, of any shape, stored in the type that it is stored in."""
        model.replace(self.name, np.ascontiguousarray(value.astype(model.weights[self.name].dtype, copy=False)))


class GraphIndex:
    """Makers and readers of every value of a model's main graph, as the graph is when the index is made."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes = list(model.proto.graph.node)
        self.numbers = {name: number for number, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[int | None]] = defaultdict(list)
        for number, node in enumerate(self.nodes):
            for name in reads(node):
                self._readers[name].append(number)
        for output in model.proto.graph.output:
            self._readers[output.name].append(None)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; None for inputs and initializers."""
        number = self.numbers.get(name)
        return None if number is None else self.nodes[number]

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, themselves or in a subgraph, each once."""
        return [self.nodes[number] for number in dict.fromkeys(self._readers[name]) if number is not None]

    def reader(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a value, once and not in a subgraph; None where there is none."""
        found = self._readers[name]
        if len(found) != 1 or found[0] is None or name not in self.nodes[found[0]].input:
            return None
        return self.nodes[found[0]]

    def last_use(self, name: str) -> int:
        """The number of the last node that reads a value; -1 where none does."""
        return max((number for number in self._readers[name] if number is not None), default=-1)

    def is_read(self, name: str) -> bool:
        """Whether a node or an output of the graph reads a value."""
        return bool(self._readers[name])

    def constant(self, name: str) -> Constant | None:
        """The constant behind a value, through Identities and at most one Cast; None where it is computed otherwise."""
        dtype, exclusive = None, True
        while True:
            exclusive &= len(self._readers[name]) == 1
            value = self.model.weights.get(name)
            if value is not None:
                return Constant(name, dtype or value.dtype, exclusive)
            maker = self.maker(name)
            if maker is None or maker.op_type not in PASSING:
                return None
            if maker.op_type == "Cast":
                made = DTYPES.get(attribute(maker, "to", TensorProto.UNDEFINED))
                if made is None or dtype is not None:
                    return None
                dtype = made
            name = maker.input[0]

    def own_constant(self, name: str) -> Constant | None:
        """The same, of a floating-point type and with a single reader: one that may be changed."""
        found = self.constant(name)
        return found if found and found.exclusive and is_floating(self.model.weights[found.name]) else None

    def parameters(self) -> list[str]:
        """Constants that were trained: those of floating-point types, and integers that quantised operators read."""
        quantised = {
            node.input[slot]
            for node in self.nodes
            for slot in QUANTISED_SLOTS.get(node.op_type, ())
            if slot < len(node.input)
        }
        weights = self.model.weights
        return [name for name, array in weights.items() if is_floating(array) or name in quantised]

    def behind(self, names: list[str]) -> set[str]:
        """`names`, and all values that they are computed from."""
        found: set[str] = set()
        while names:
            found.update(names)
            makers = [maker for name in names if (maker := self.maker(name)) is not None]
            names = [source for maker in makers for source in reads(maker) if source not in found]
        return found
