"""Model files: reads the graph apart from its weights, writes both back, all or nothing.

External data is mapped, not read, and written tensor by tensor: memory does not bound the size of a model.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import TensorProto

from lbyl_onnx.errors import ModelError, UsageError

INLINE_LIMIT = 2**31 - 2**20
"""Bytes that one model file may hold: protobuf's 2 GiB, less room for framing."""
EXTERNAL_MINIMUM = 1024
"""Bytes from which a weight moves to the data file of a model that exceeds INLINE_LIMIT."""
ALIGNMENT = 4096
NAN_CHUNK = 2**22

DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    TensorProto.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.COMPLEX64: np.dtype(np.complex64),
    TensorProto.COMPLEX128: np.dtype(np.complex128),
}
"""ONNX element types whose elements are whole bytes. Initializers of any other type (int4, string, ...) keep
their data in the graph and are no weights."""
_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}

_TYPED_FIELDS = [f"{kind}_data" for kind in ("float", "double", "int32", "int64", "uint64", "string")]

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
            _strip(tensor)
        tensor.data_type = _DATA_TYPES[array.dtype]
        tensor.dims[:] = array.shape
        declared = onnx.helper.make_tensor_type_proto(tensor.data_type, array.shape)
        for info in (*graph.input, *graph.value_info):
            if info.name == name:
                info.type.CopyFrom(declared)
        self.weights[name] = array

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
        return _separate(proto, path)
    except ModelError as error:
        raise ModelError(f"{path or 'model'}: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path or 'model'}: damaged, a name is not text; export the model again") from None


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

    data = _ExternalData(path)
    external, weights = {}, {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            external[tensor.name] = _location(tensor)
        if tensor.data_type in DTYPES:
            weights[tensor.name] = _value(tensor, data)
            _strip(tensor)
    for tensor in _walk(proto, TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL:
            stored = data.read(tensor).tobytes()
            _strip(tensor)
            tensor.raw_data = stored

    skeleton = onnx.ModelProto()  # protobuf frees the memory of the data only with the message that held it
    skeleton.CopyFrom(proto)
    _check_structure(_without_weights(skeleton, weights))
    for node in skeleton.graph.node:
        if node.op_type == "Constant" and (value := _constant(node)) is not None:
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
    """Runs the ONNX checker; operators it does not know are left to onnxruntime, which has more of them."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        if "No Op registered" not in reason:
            raise ModelError(f"not a valid ONNX model: {reason[:300]}; export the model again") from None


def _refuse_nan(weights: dict[str, np.ndarray]) -> None:
    for name, array in weights.items():
        if array.dtype.kind in "biu":
            continue
        flat = array.reshape(-1)
        for start in range(0, flat.size, NAN_CHUNK):
            if np.isnan(flat[start : start + NAN_CHUNK]).any():
                raise ModelError(f"initializer '{name}' contains NaN; train or export the model again")


# ---- tensors


def _strip(tensor: TensorProto) -> None:
    for name in ("raw_data", "external_data", "data_location", *_TYPED_FIELDS):
        tensor.ClearField(name)


def _needed_bytes(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * DTYPES[tensor.data_type].itemsize


def _value(tensor: TensorProto, data: _ExternalData) -> np.ndarray:
    """The read-only array that a tensor of a type in DTYPES stands for."""
    dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
    needed = _needed_bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        stored = data.read(tensor)
    elif tensor.HasField("raw_data"):
        stored = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        stored = _typed_bytes(tensor)
    if min(shape, default=0) < 0 or stored.nbytes != needed:
        raise ModelError(
            f"initializer '{tensor.name}' holds {stored.nbytes} bytes, its shape {list(shape)} of {dtype}"
            f" needs {needed}; the file is damaged, export the model again"
        )
    value = stored.view(dtype).reshape(shape)
    value.flags.writeable = False
    return value


def _typed_bytes(tensor: TensorProto) -> np.ndarray:
    """Bytes of a tensor that is stored in the typed field of its element type, not as raw data."""
    dtype = DTYPES[tensor.data_type]
    if dtype in (np.float32, np.complex64):
        values = np.array(tensor.float_data, np.float32)
    elif dtype in (np.float64, np.complex128):
        values = np.array(tensor.double_data, np.float64)
    elif dtype == np.int64:
        values = np.array(tensor.int64_data, np.int64)
    elif dtype in (np.uint32, np.uint64):
        values = np.array(tensor.uint64_data, np.uint64).astype(dtype)
    else:
        values = np.array(tensor.int32_data, np.int32).astype(f"u{dtype.itemsize}")
    return values.view(np.uint8)


def _constant(node: onnx.NodeProto) -> np.ndarray | None:
    """Value of a Constant node, None where it is text, sparse or of a type outside DTYPES."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type in DTYPES:
            return _value(attribute.t, _ExternalData(None))
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            dtype = np.float32 if "float" in attribute.name else np.int64
            return np.array(onnx.helper.get_attribute_value(attribute), dtype)
    return None


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


@dataclass
class _ExternalData:
    """The data files of the model at `path`, each mapped once."""

    path: Path | None
    mapped: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, tensor: TensorProto) -> np.ndarray:
        """The bytes of an external tensor, mapped: uint8 of shape (length,). Where no length is stated
        it is what the shape needs, for types outside DTYPES the rest of the file."""
        location = str(_location(tensor))
        label = f"external data '{location}' of tensor '{tensor.name}'"
        if location not in self.mapped:
            self.mapped[location] = self._map(location, label)
        file = self.mapped[location]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset = int(entries.get("offset", 0))
            needed = _needed_bytes(tensor) if tensor.data_type in DTYPES else file.size - offset
            length = int(entries.get("length", needed))
        except ValueError:
            raise ModelError(f"{label} has an offset or length that is not a number") from None
        if min(offset, length) < 0 or offset + length > file.size:
            span = f"{length} bytes from {offset}"
            raise ModelError(f"{label} is too short: {file.size} bytes, needs {span}; download it again")
        return file[offset : offset + length]

    def _map(self, location: str, label: str) -> np.ndarray:
        """The whole file. Links resolved it must lie in the model's folder or, where the model is a link, in
        the folder of the file behind it (a download cache links both)."""
        if self.path is None:
            raise ModelError(f"{label} cannot be found for a model in memory; give the model's path instead")
        folders = (self.path.parent.resolve(), self.path.resolve().parent)
        try:
            file = (self.path.parent / location).resolve()
            absolute = Path(location).is_absolute() or PureWindowsPath(location).drive
            if absolute or not any(file.is_relative_to(folder) for folder in folders):
                raise ModelError(f"{label} is outside the model's folder, refused as unsafe; move it there")
            if not file.is_file():
                raise ModelError(f"{label} is missing; put the file beside the model")
            return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{label} cannot be read ({error}); put the file beside the model") from None


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
            raise UsageError(f"{target}: {what}; choose another name or use --force to overwrite it")
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
            _strip(tensor)
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
