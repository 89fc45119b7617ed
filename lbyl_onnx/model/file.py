"""Model files: reads the graph apart from its weights, writes both back, all or nothing.

External data is mapped, not read, and written tensor by tensor: memory does not bound the size of a model.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from ..errors import ModelError, UsageError
from .tensors import (
    DATA_TYPES,
    DTYPES,
    ExternalData,
    constant_value,
    location_of,
    strip_data,
    tensor_value,
)

INLINE_LIMIT = 2**31 - 2**20
"""Bytes that one model file may hold: protobuf's 2 GiB, less room for framing."""
EXTERNAL_MINIMUM = 1024
"""Bytes from which a weight moves to the data file of a model that exceeds INLINE_LIMIT."""
ALIGNMENT = 4096
NAN_CHUNK = 2**22

TOLERATED = ("No Op registered", "deprecated", "Field 'shape' of 'type' is required but missing")
"""Findings of the ONNX checker that keep no model from running: operators of onnxruntime's own, GroupNormalization at
opset 18, outputs without a shape."""

RUNTIME_DOMAINS = (
    *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"),
    *("com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc"),
    "org.pytorch.aten",
)
"""Operator domains that onnxruntime provides itself."""


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

    @property
    def bytes(self) -> int:
        """Size on disk in bytes, external data included, to within a few bytes of framing per tensor."""
        stored = (self.weights[t.name].nbytes for t in self.proto.graph.initializer if t.name in self.weights)
        return self.proto.ByteSize() + sum(stored)

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
        return _with_data(self, {})


def load_model(source: str | Path | onnx.ModelProto) -> Model:
    """Reads a model from a file, or from a ModelProto, which stays as it is.

    External tensors outside the main graph's initializers (in subgraphs, attributes) become inline.
    Raises ModelError, with the file's name, where the model is missing, unreadable, not ONNX or structurally
    invalid, uses an operator domain that onnxruntime lacks, holds NaN, or refers to external data that is
    missing, too short or outside the model's folder.
    """
    path = None if isinstance(source, onnx.ModelProto) else Path(source)
    try:
        if isinstance(source, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(source)
        else:
            proto = _parse(Path(source))
        model = _separate(proto, path)
    except ModelError as error:
        raise ModelError(f"{path or 'model'}: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path or 'model'}: damaged, a name is not text; export the model again") from None
    del proto
    _return_freed_memory()
    return model


def _return_freed_memory() -> None:
    """Give the memory of the parsed file, which glibc would keep for later, back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def save_model(model: Model, path: str | Path, force: bool = False) -> None:
    """Writes the model to `path`, all or nothing.

    Weights that were external stay external, in one file `<name of path>.data` beside it; in a model of over
    2 GiB every weight of EXTERNAL_MINIMUM bytes or more goes there. Raises UsageError where the target can't
    be written or exists and `force` is not given, ModelError where the result is not a valid model.
    """
    path = Path(path)
    outside = _external_names(model)
    try:
        _check_target(model, path, force, bool(outside))
        with tempfile.TemporaryDirectory(prefix=".lbyl-onnx-", dir=path.parent.resolve()) as folder:
            written = Path(folder, path.name)
            _write(model, written, outside)
            _check_structure(str(written))
            _publish(written, path)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be written ({reason}); choose another place") from None


def reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, in its subgraphs too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            names += [name for inner in graph.node for name in reads(inner)]
            names += [output.name for output in graph.output]
    return names


# ---- reading


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if not path.exists():
            raise ModelError("no such file; check the path")
        if not path.is_file():
            raise ModelError("is not a file; give the path of an .onnx file")
        size = path.stat().st_size
        if size == 0:
            raise ModelError("the file is empty; download or export the model again")
        if size >= 2**31:
            raise ModelError(f"{size} bytes in one file, ONNX allows 2 GiB; export it with external data")
        return onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror}); check the path and its permissions") from None
    except DecodeError:
        raise ModelError("is not an ONNX file or is truncated; download or export the model again") from None


def _separate(proto: onnx.ModelProto, path: Path | None) -> Model:
    """A Model out of a complete proto, which is taken apart."""
    if not proto.HasField("graph") or proto.ir_version == 0:
        raise ModelError("is not an ONNX model: it has no graph or no IR version; export the model again")
    if not proto.graph.node:
        raise ModelError("empty graph: the model has no nodes; export the model again")
    _check_nodes(proto)
    names = Counter(tensor.name for tensor in proto.graph.initializer)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ModelError(f"initializer '{twice[0]}' is defined more than once; names must be unique")

    data = ExternalData(path)
    external, weights = {}, {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            external[tensor.name] = location_of(tensor)
        if tensor.data_type in DTYPES:
            weights[tensor.name] = tensor_value(tensor, data)
            strip_data(tensor)
    for tensor in _walk(proto, TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL:
            stored = data.read(tensor).tobytes()
            strip_data(tensor)
            tensor.raw_data = stored

    skeleton = onnx.ModelProto()  # protobuf frees the memory of the data only with the message that held it
    skeleton.CopyFrom(proto)
    _check_structure(_without_weights(skeleton, weights))
    called = {(node.domain, node.op_type) for node in skeleton.graph.node}
    if any((function.domain, function.name) in called for function in skeleton.functions):
        skeleton = inline_local_functions(skeleton)
    for node in skeleton.graph.node:
        if node.op_type == "Constant" and (value := constant_value(node)) is not None:
            weights[node.output[0]] = value
    _refuse_nan(weights)
    return Model(skeleton, weights, external, path)


def _walk(message: Message, kind: type) -> Iterator[Any]:
    """Every message of a kind inside another, at any depth (subgraphs, functions, attributes)."""
    if isinstance(message, kind):
        yield message
    if isinstance(message, TensorProto):
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in (value,) if isinstance(value, Message) else value:
                yield from _walk(item, kind)


def _check_nodes(proto: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in proto.functions}
    for node in _walk(proto, onnx.NodeProto):
        if any(isinstance(text, bytes) for text in (node.name, node.domain, *node.input, *node.output)):
            raise ModelError("damaged, a name is not text; export the model again")
        if node.domain not in RUNTIME_DOMAINS and (node.domain, node.op_type) not in functions:
            raise ModelError(
                f"node '{node.name}' is a {node.op_type} of the operator domain '{node.domain}', which"
                " onnxruntime does not have; replace it by standard operators"
            )


def _without_weights(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same structure with weights of size zero, which needs no data to be valid."""
    structure = onnx.ModelProto()
    structure.CopyFrom(proto)
    for tensor in structure.graph.initializer:
        if tensor.name in weights:
            tensor.dims[:] = [0]
    return structure


def _check_structure(model: onnx.ModelProto | str) -> None:
    """Runs the ONNX checker; what it refuses and onnxruntime accepts is left to onnxruntime."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        if not any(text in reason for text in TOLERATED):
            raise ModelError(f"not a valid ONNX model: {reason[:300]}; export the model again") from None


def _refuse_nan(weights: dict[str, np.ndarray]) -> None:
    for name, array in weights.items():
        if array.dtype.kind in "biu":
            continue
        flat = array.reshape(-1)
        for start in range(0, flat.size, NAN_CHUNK):
            if np.isnan(flat[start : start + NAN_CHUNK]).any():
                raise ModelError(f"initializer '{name}' contains NaN; train or export the model again")


# ---- writing


def _external_names(model: Model) -> set[str]:
    """Initializers to write to the data file."""
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.proto.graph.initializer}
    sizes |= {name: array.nbytes for name, array in model.weights.items() if name in sizes}
    outside = {name for name in model.external if sizes.get(name, 0) > 0}
    if model.bytes - sum(sizes[name] for name in outside) > INLINE_LIMIT:
        outside |= {name for name, size in sizes.items() if size >= EXTERNAL_MINIMUM}
    return outside


def _data_path(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.exists() and other.exists() and one.samefile(other)


def _check_target(model: Model, path: Path, force: bool, with_data: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    overwrites_input = _same(path, model.path)
    inputs = [model.path.parent / name for name in set(model.external.values())] if model.path else []
    for suffix in ("", ".data") if with_data else ("",):
        target = path.parent / (path.name + suffix)
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; give the name of a file")
        if target.exists() and not force:
            what = "is the input model" if overwrites_input else "exists already"
            raise UsageError(f"{target}: {what}; choose another name or overwrite it (--force, force=True)")
        if not overwrites_input and any(_same(target, data) for data in inputs):
            raise UsageError(f"{target}: holds the weights of the input model; choose another name")


def _write(model: Model, path: Path, outside: set[str]) -> None:
    """Writes the model file and, where weights go outside, its data file."""
    entries: dict[str, dict[str, object]] = {}
    data = _data_path(path)
    if outside:
        with data.open("wb") as file:
            for tensor in model.proto.graph.initializer:
                if tensor.name in outside:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offset = file.tell()
                    length = file.write(_stored(model, tensor).data)
                    entries[tensor.name] = {"location": data.name, "offset": offset, "length": length}
    proto = _with_data(model, entries)
    try:
        content = proto.SerializeToString()
    except (EncodeError, ValueError):
        raise ModelError("the graph without its large weights exceeds 2 GiB, more than ONNX allows") from None
    path.write_bytes(content)


def _with_data(model: Model, entries: dict[str, dict[str, object]]) -> onnx.ModelProto:
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
            tensor.raw_data = _stored(model, tensor).tobytes()
    return proto


def _stored(model: Model, tensor: TensorProto) -> np.ndarray:
    """The bytes of an initializer, uint8 of shape (length,); no copy where its array is contiguous."""
    if tensor.name in model.weights:
        return np.ascontiguousarray(model.weights[tensor.name]).reshape(-1).view(np.uint8)
    return np.frombuffer(tensor.raw_data, np.uint8)


def _publish(written: Path, path: Path) -> None:
    """Renames what was written into place, data first; where a rename fails, the earlier one is undone."""
    source, data = _data_path(written), _data_path(path)
    if not source.exists():
        os.replace(written, path)
        return
    previous = written.with_name(path.name + ".previous")
    if data.exists():
        os.replace(data, previous)
    try:
        os.replace(source, data)
        os.replace(written, path)
    except BaseException:
        data.unlink(missing_ok=True)
        if previous.exists():
            os.replace(previous, data)
        raise
