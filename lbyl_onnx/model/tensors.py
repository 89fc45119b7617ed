"""Tensors of a model file as numpy arrays: typed fields, raw data, external data that is mapped and not read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from ..errors import ModelError, counted

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
DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}

_TYPED_FIELDS = [f"{kind}_data" for kind in ("float", "double", "int32", "int64", "uint64", "string")]


def is_floating(array: np.ndarray) -> bool:
    """Whether the array is of a floating-point type, those of ml_dtypes included."""
    return array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))


def strip_data(tensor: TensorProto) -> None:
    for name in ("raw_data", "external_data", "data_location", *_TYPED_FIELDS):
        tensor.ClearField(name)


def needed_bytes(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * DTYPES[tensor.data_type].itemsize


def tensor_value(tensor: TensorProto, data: ExternalData) -> np.ndarray:
    """The read-only array that a tensor of a type in DTYPES stands for."""
    dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
    needed = needed_bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        stored = data.read(tensor)
    elif tensor.HasField("raw_data"):
        stored = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        stored = _typed_bytes(tensor)
    if min(shape, default=0) < 0 or stored.nbytes != needed:
        raise ModelError(
            f"initializer '{tensor.name}' holds {counted(stored.nbytes, 'byte')}, its shape {list(shape)} of "
            f"{dtype} needs {needed}; the file is damaged, export the model again"
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


def constant_value(node: onnx.NodeProto) -> np.ndarray | None:
    """Value of a Constant node, None where it is text, sparse or of a type outside DTYPES."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type in DTYPES:
            return tensor_value(attribute.t, ExternalData(None))
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            dtype = np.float32 if "float" in attribute.name else np.int64
            return np.array(onnx.helper.get_attribute_value(attribute), dtype)
    return None


def location_of(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


@dataclass
class ExternalData:
    """The data files of the model at `path`, each mapped once."""

    path: Path | None
    mapped: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, tensor: TensorProto) -> np.ndarray:
        """The bytes of an external tensor, mapped: uint8 of shape (length,). Where no length is stated
        it is what the shape needs, for types outside DTYPES the rest of the file."""
        location = str(location_of(tensor))
        label = f"external data '{location}' of tensor '{tensor.name}'"
        if location not in self.mapped:
            self.mapped[location] = self._map(location, label)
        file = self.mapped[location]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset = int(entries.get("offset", 0))
            needed = needed_bytes(tensor) if tensor.data_type in DTYPES else file.size - offset
            length = int(entries.get("length", needed))
        except ValueError:
            raise ModelError(f"{label} has an offset or length that is not a number") from None
        if min(offset, length) < 0 or offset + length > file.size:
            span = f"{counted(length, 'byte')} from {offset}"
            raise ModelError(f"{label} is too short: {counted(file.size, 'byte')}, needs {span}; download it again")
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
