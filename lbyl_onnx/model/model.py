"""A model in memory: the graph apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import counted
from .nodes import reads
from .tensors import DATA_TYPES, strip_data


@dataclass
class Model:
    """A model whose weights live beside its graph.

    `proto` is the whole graph; its main-graph initializers hold name, shape and element type, no data.
    `weights` has the value of every main-graph initializer of a type in DTYPES, by name, and of every numeric
    Constant node of the main graph, by its output's name. The arrays are read-only; those stored externally
    are np.memmap views. `external` maps initializers that were stored externally to their location, relative
    to the folder of `path` (None: the model was given in memory).
    """

    proto: onnx.ModelProto
    weights: dict[str, np.ndarray]
    external: dict[str, str] = field(default_factory=dict)
    path: Path | None = None

    def __repr__(self) -> str:
        nodes, weights = counted(len(self.proto.graph.node), "node"), counted(len(self.weights), "constant")
        return f"<Model {self.name}: {nodes}, {weights}, {self.bytes:,} bytes>"

    @property
    def name(self) -> str:
        """What messages call it: its file's name."""
        return self.path.name if self.path else "the model"

    @property
    def bytes(self) -> int:
        """Size once written, external data included, to within a few bytes of framing per tensor."""
        stored = (self.weights[t.name].nbytes for t in self.proto.graph.initializer if t.name in self.weights)
        return self.proto.ByteSize() + sum(stored)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from: its own and those of external data; none for a model given in memory."""
        if self.path is None:
            return ()
        return (self.path, *(self.path.parent / location for location in dict.fromkeys(self.external.values())))

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of `files`; for a model in memory, of what would be written."""
        return sum(file.stat().st_size for file in self.files) or self.bytes

    def copy(self) -> Model:
        """An independent model that shares the (read-only) arrays."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return replace(self, proto=proto, weights=dict(self.weights), external=dict(self.external))

    def replace(self, name: str, array: np.ndarray) -> None:
        """Gives an initializer, or the Constant node with the output `name`, a new value.

        `array` has any shape and a dtype in DTYPES; graph.input and value_info entries of that name follow.
        Raises KeyError where the graph has no such constant.
        """
        graph = self.proto.graph
        tensor = next((t for t in graph.initializer if t.name == name), None)
        if tensor is None:
            node = next((n for n in graph.node if n.op_type == "Constant" and n.output[0] == name), None)
            if node is None:
                raise KeyError(name)
            del node.attribute[:]
            attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
            attribute.t.raw_data = np.ascontiguousarray(array).tobytes()
            tensor = attribute.t
        else:
            strip_data(tensor)
        tensor.data_type = DATA_TYPES[array.dtype]
        tensor.dims[:] = array.shape
        declared = onnx.helper.make_tensor_type_proto(tensor.data_type, array.shape)
        for info in (*graph.input, *graph.value_info):
            if info.name == name:
                info.type.CopyFrom(declared)
        self.weights[name] = array

    def add(self, name: str, array: np.ndarray) -> None:
        """Adds an initializer, which before IR version 4 is declared as an input too."""
        graph = self.proto.graph
        graph.initializer.add(name=name, data_type=DATA_TYPES[array.dtype], dims=array.shape)
        if self.proto.ir_version < 4:
            graph.input.append(onnx.helper.make_tensor_value_info(name, DATA_TYPES[array.dtype], array.shape))
        self.weights[name] = array

    def free_names(self, bases: list[str]) -> list[str]:
        """Each of `bases`, or where the graph has a tensor of that name, the first of base_1, base_2, ... that is free;
        all of them different."""
        graph = self.proto.graph
        taken = {name for node in graph.node for name in [*reads(node), *node.output]} | set(self.weights)
        taken |= {value.name for value in graph.input}
        names = []
        for base in bases:
            name, number = base, 1
            while name in taken:
                name, number = f"{base}_{number}", number + 1
            taken.add(name)
            names.append(name)
        return names

    def free_name(self, base: str) -> str:
        """The only one of `free_names`."""
        return self.free_names([base])[0]

    def remove(self, names: set[str]) -> None:
        """Removes initializers and what declares them."""
        graph = self.proto.graph
        for items in (graph.initializer, graph.input, graph.value_info):
            kept = [item for item in items if item.name not in names]
            if len(kept) < len(items):
                del items[:]
                items.extend(kept)
        for name in names:
            self.weights.pop(name, None)

    def to_proto(self) -> onnx.ModelProto:
        """The complete model, every weight inline as raw data. Over 2 GiB protobuf won't serialize it."""
        return with_data(self, {})


def with_data(model: Model, entries: dict[str, dict[str, object]]) -> onnx.ModelProto:
    """The model's proto with every weight inline, except those with entries that say where they are."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in entries:
            strip_data(tensor)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries[tensor.name].items():
                tensor.external_data.add(key=key, value=str(value))
        elif tensor.name in model.weights:
            tensor.raw_data = stored_bytes(model, tensor).tobytes()
    return proto


def stored_bytes(model: Model, tensor: TensorProto) -> np.ndarray:
    """The bytes of an initializer, uint8 of shape (length,); no copy where its array is contiguous."""
    if tensor.name in model.weights:
        return np.ascontiguousarray(model.weights[tensor.name]).reshape(-1).view(np.uint8)
    return np.frombuffer(tensor.raw_data, np.uint8)
