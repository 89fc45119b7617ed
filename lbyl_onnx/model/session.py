"""onnxruntime sessions: opened whatever the size of the weights, run with errors of one line."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from ..errors import ModelError, UsageError, counted
from ..options import RunOptions
from .graph import GraphIndex
from .model import Model
from .nodes import walk
from .providers import FATAL_ONLY, PROVIDERS, cuda_missing, resolve

DEFAULTS = RunOptions()
INLINE_BYTES = 1024
BATCH_LIMIT = 64
_BFLOAT16 = "tensor(bfloat16)"
_ORT_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h|cpp|cu):\d+\s*")
_NEWEST_IR = re.compile(r"max supported IR version: (\d+)")

RUNTIME_DOMAINS = (
    *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"),
    *("com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc"),
    "org.pytorch.aten",
)
"""Operator domains that onnxruntime provides itself."""


def open_session(
    model: Model,
    options: RunOptions = DEFAULTS,
    optimise: bool = True,
    arena: bool = True,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """An onnxruntime session of `model`.

    Weights of 1 KiB and more are handed over as views instead of being serialised, so that models over 2 GB
    and memory-mapped external data open; the only copy is onnxruntime's own. `optimise=False` switches graph
    optimisation off and runs Shape nodes as early as they can, so that what they measure need not be kept.
    `arena=False` takes the memory of each run from the process's heap, which a session of few runs uses better.
    `profile`: the beginning of the name of a file that `end_profiling` of the session writes the kernels' times to.
    A model of a newer IR version than onnxruntime reads is opened as one of the newest that it does read.
    Raises ModelError with onnxruntime's reason where it refuses the model, UsageError where the provider or the library
    of custom operators cannot be had.
    """
    options = resolve(options)
    settings = _settings(options, optimise, arena)
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    proto, large = _split_weights(model)
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, data_type)
        for name, (array, data_type) in large.items()
    }
    try:
        if values:
            settings.add_external_initializers(list(values), list(values.values()))
        session = _open(proto, settings, PROVIDERS[options.provider])
    except Exception as error:
        raise ModelError(f"{model.path or 'model'}: {_refusal(model, options, error)}") from error
    session.borrowed_weights = values  # onnxruntime may go on reading these
    if options.provider == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise UsageError(cuda_missing())
    return session


def _settings(options: RunOptions, optimise: bool, arena: bool) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions slow others down
    settings.enable_cpu_mem_arena = arena
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if options.custom_ops_library is not None:
        library = options.custom_ops_library
        if not Path(library).is_file():
            raise UsageError(f"{library!r} is no file; expected a shared library of operators", "custom_ops_library")
        try:
            settings.register_custom_ops_library(library)
        except Exception as error:
            raise UsageError(f"{library!r} cannot be registered: {reason(error)}", "custom_ops_library") from error
    return settings


def _open(proto: onnx.ModelProto, settings: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(proto.SerializeToString(), settings, providers=providers)
    except Exception as error:
        newest = _NEWEST_IR.search(str(error))
        if newest is None:
            raise
        proto.ir_version = int(newest[1])
        return ort.InferenceSession(proto.SerializeToString(), settings, providers=providers)


def _refusal(model: Model, options: RunOptions, error: Exception) -> str:
    """Why a model does not open: an operator that needs a library, or what onnxruntime says."""
    functions = {(function.domain, function.name) for function in model.proto.functions}
    foreign = (
        node
        for node in walk(model.proto, onnx.NodeProto)
        if node.domain not in RUNTIME_DOMAINS and (node.domain, node.op_type) not in functions
    )
    node = next(foreign, None)
    if node is None or options.custom_ops_library is not None:
        return f"onnxruntime refuses the model: {reason(error)}"
    return (
        f"node {node.name or node.output[0]!r} is a {node.op_type} of the operator domain {node.domain!r}, which "
        "onnxruntime does not have; register the library that provides it (--custom-ops-library PATH, "
        "custom_ops_library=PATH), or replace it by standard operators"
    )


def _split_weights(model: Model) -> tuple[onnx.ModelProto, dict[str, tuple[np.ndarray, int]]]:
    """A proto with small weights inline and large ones by name only, and those large ones with their type. What nothing
    reads is inline too: onnxruntime forgets it, and then misses the name."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    index = GraphIndex(model)
    large = {}
    for initializer in proto.graph.initializer:
        name, data_type = initializer.name, initializer.data_type
        array = model.weights.get(name)
        if array is None:
            continue
        if array.nbytes < INLINE_BYTES or not index.is_read(name):
            initializer.raw_data = array.tobytes()
            continue
        large[name] = np.require(array, requirements=["C", "A"]), data_type
        initializer.data_location = TensorProto.EXTERNAL
        for key, text in {"location": "memory", "offset": "0", "length": str(array.nbytes)}.items():
            initializer.external_data.add(key=key, value=text)
    return proto, large


def run(session: ort.InferenceSession, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[Any]:
    """One run of the session: values of `outputs` (None: all, in the model's order).

    Tensors come as numpy arrays (bfloat16 as ml_dtypes'), sequences and maps as onnxruntime gives them.
    Raises ModelError with onnxruntime's reason.
    """
    options = ort.RunOptions()
    options.log_severity_level = FATAL_ONLY
    names = outputs or [value.name for value in session.get_outputs()]
    tensors = [*session.get_inputs(), *(value for value in session.get_outputs() if value.name in names)]
    try:
        if any(value.type == _BFLOAT16 for value in tensors):
            feed = {name: _to_ort(array) for name, array in inputs.items()}
            return [_to_numpy(value) for value in session.run_with_ort_values(names, feed, options)]
        return session.run(names, inputs, options)
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {reason(error)}") from error


def _to_ort(array: np.ndarray) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        array = np.ascontiguousarray(array)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _to_numpy(value: ort.OrtValue) -> Any:
    """A tensor as an array, anything else as it is. bfloat16, unknown to numpy, is copied from memory."""
    if value.data_type() != _BFLOAT16:
        return value.numpy() if value.is_tensor() else value
    shape = value.shape()
    stored = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.array(stored, np.uint16).view(ml_dtypes.bfloat16).reshape(shape)


def feed_batches(
    session: ort.InferenceSession, inputs: dict[str, np.ndarray], limit: int = BATCH_LIMIT
) -> Iterator[dict[str, np.ndarray]]:
    """`inputs` (first axis = samples) cut into the feeds of successive runs; the slices are views.

    The first input with a static first axis decides: B there gives slices of B samples and the remainder is
    dropped. Where all are dynamic, slices have up to `limit` samples. An input whose first axis is static
    gives that many rows to each run; scalars are fed whole. Raises UsageError where an input has too few
    rows for one run.
    """
    known = static_batches(session)
    static = {name: known.get(name) for name, array in inputs.items() if array.ndim}
    batch = next((size for size in static.values() if size), None)
    rows = {name: size or batch or limit for name, size in static.items()}
    for name in rows:
        least = rows[name] if batch else 1
        if len(inputs[name]) < least:
            raise UsageError(
                f"input {name!r} has {counted(len(inputs[name]), 'sample')}, but one run of the model takes "
                f"{least}; give at least that many"
            )
    whole = math.floor if batch else math.ceil
    runs = min((whole(len(inputs[name]) / count) for name, count in rows.items()), default=1)
    for index in range(runs):
        yield {
            name: array[index * rows[name] : (index + 1) * rows[name]] if name in rows else array
            for name, array in inputs.items()
        }


def rows_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Samples in a set of inputs: the length of the first that is no scalar."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)


def static_batches(session: ort.InferenceSession) -> dict[str, int | None]:
    """The size of each input's first axis; None where it is dynamic or the input has no axis."""
    first = {value.name: value.shape[0] if value.shape else None for value in session.get_inputs()}
    return {name: size if isinstance(size, int) and size > 0 else None for name, size in first.items()}


def run_batches(
    session: ort.InferenceSession,
    inputs: dict[str, np.ndarray],
    outputs: list[str] | None = None,
    limit: int = BATCH_LIMIT,
) -> list[np.ndarray]:
    """All samples through the session in the slices of `feed_batches`, tensor outputs only.

    Each output is concatenated over the runs along axis 0, a scalar output becomes one value for each run.
    Raises ModelError where a run fails, UsageError where there are too few samples.
    """
    slices = [run(session, feed, outputs) for feed in feed_batches(session, inputs, limit)]
    return [np.concatenate([np.atleast_1d(value) for value in values]) for values in zip(*slices, strict=True)]


def reason(error: Exception) -> str:
    """onnxruntime's message on one line of at most 300 characters, without prefixes and source positions."""
    text = " ".join(_ORT_NOISE.sub("", str(error)).split())
    return text if len(text) <= 300 else text[:297] + "..."
