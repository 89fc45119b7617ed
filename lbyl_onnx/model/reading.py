"""Reads a model file: the graph apart from its weights, external data mapped and not read."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from ..errors import ModelError, UsageError, article
from .model import Model
from .nodes import walk
from .tensors import DTYPES, ExternalData, constant_value, location_of, strip_data, tensor_value

NAN_CHUNK = 2**22

TOLERATED = ("No Op registered", "deprecated", "Field 'shape' of 'type' is required but missing")
"""Findings of the ONNX checker that keep no model from running: operators of onnxruntime's own, GroupNormalization at
opset 18, outputs without a shape."""


def load(source: str | Path | bytes | onnx.ModelProto | Model) -> Model:
    """A model from a file, the bytes of one, or a ModelProto, which stays as it is; a Model is returned itself.

    External tensors outside the main graph's initializers (in subgraphs, attributes) become inline.
    Raises ModelError, with the file's name, where the model is missing, unreadable, not ONNX, structurally
    invalid, holds NaN, or refers to external data that is missing, too short or outside the model's folder; UsageError
    where `source` is of another type.
    """
    if isinstance(source, Model):
        return source
    if not isinstance(source, str | Path | bytes | onnx.ModelProto):
        kind = type(source).__name__
        raise UsageError(f"is {article(kind)}; expected a path, the bytes of a file, a ModelProto or a Model", "model")
    path = Path(source) if isinstance(source, str | Path) else None
    try:
        if isinstance(source, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(source)
        else:
            proto = _parse(source if isinstance(source, bytes) else _content(Path(source)))
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


def _content(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ModelError("no such file; check the path")
        if not path.is_file():
            raise ModelError("is not a file; give the path of an .onnx file")
        size = path.stat().st_size
        if size >= 2**31:
            raise ModelError(f"{size} bytes in one file, ONNX allows 2 GiB; export it with external data")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror}); check the path and its permissions") from None


def _parse(content: bytes) -> onnx.ModelProto:
    if not content:
        raise ModelError("the file is empty; download or export the model again")
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError:
        raise ModelError("is not an ONNX file or is truncated; download or export the model again") from None


def _separate(proto: onnx.ModelProto, path: Path | None) -> Model:
    """A Model out of a complete proto, which is taken apart."""
    if not proto.HasField("graph") or proto.ir_version == 0:
        raise ModelError("is not an ONNX model: it has no graph or no IR version; export the model again")
    if not proto.graph.node:
        raise ModelError("empty graph: the model has no nodes; export the model again")
    _check_names(proto)
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
    for tensor in walk(proto, TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL:
            stored = data.read(tensor).tobytes()
            strip_data(tensor)
            tensor.raw_data = stored

    skeleton = onnx.ModelProto()  # protobuf frees the memory of the data only with the message that held it
    skeleton.CopyFrom(proto)
    check_structure(_without_weights(skeleton, weights))
    called = {(node.domain, node.op_type) for node in skeleton.graph.node}
    if any((function.domain, function.name) in called for function in skeleton.functions):
        skeleton = inline_local_functions(skeleton)
    for node in skeleton.graph.node:
        if node.op_type == "Constant" and (value := constant_value(node)) is not None:
            weights[node.output[0]] = value
    _refuse_nan(weights)
    return Model(skeleton, weights, external, path)


def _check_names(proto: onnx.ModelProto) -> None:
    for node in walk(proto, onnx.NodeProto):
        if any(isinstance(text, bytes) for text in (node.name, node.domain, *node.input, *node.output)):
            raise ModelError("damaged, a name is not text; export the model again")


def _without_weights(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same structure with weights of size zero, which needs no data to be valid."""
    structure = onnx.ModelProto()
    structure.CopyFrom(proto)
    for tensor in structure.graph.initializer:
        if tensor.name in weights:
            tensor.dims[:] = [0]
    return structure


def check_structure(model: onnx.ModelProto | str) -> None:
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
