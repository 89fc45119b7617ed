"""Execution providers of onnxruntime: which one a name stands for on this machine."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from ..errors import UsageError
from ..options import RunOptions

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
FATAL_ONLY = 4


def resolve(options: RunOptions) -> RunOptions:
    """The same options with the provider that they stand for here: "cpu" or "cuda".

    "auto" is "cuda" where a CUDA session can really be opened, else "cpu". Raises UsageError for "cuda" where
    onnxruntime has no CUDA provider or cannot start it.
    """
    if options.provider == "auto":
        return replace(options, provider="cuda" if _cuda_starts() else "cpu")
    if options.provider == "cuda" and not _cuda_starts():
        raise UsageError(cuda_missing())
    return options


@functools.cache
def _cuda_starts() -> bool:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    try:
        session = ort.InferenceSession(probe.SerializeToString(), options, providers=PROVIDERS["cuda"])
    except Exception:
        return False
    return "CUDAExecutionProvider" in session.get_providers()


def cuda_missing() -> str:
    """Why CUDA cannot be used here, and what to do."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        return (
            "provider cuda does not start: onnxruntime finds no usable GPU, CUDA or cuDNN; "
            "install the CUDA and cuDNN that this onnxruntime-gpu needs, or use --provider cpu"
        )
    return (
        f"provider cuda is missing from this onnxruntime {ort.__version__}; install onnxruntime-gpu in "
        "place of onnxruntime (README, section on GPUs), or use --provider cpu"
    )


def block_of(options: RunOptions) -> int:
    """How many channels the provider's convolution kernels work on at once: other numbers are padded to a multiple.

    16 on processors with AVX-512, else 8 (onnxruntime's blocked layout NCHWc); 8 on GPUs (tensor cores, float16).
    Raises UsageError where the provider cannot be had.
    """
    return 8 if resolve(options).provider == "cuda" else _cpu_block()


@functools.cache
def _cpu_block() -> int:
    """The channels that onnxruntime pads a filter of one output channel to: only it knows which kernels it chose."""
    value = helper.make_tensor_value_info
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [value("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [value("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS["cpu"])
        optimised = onnx.load(options.optimized_model_filepath)
    padded = [tensor.dims[0] for tensor in optimised.graph.initializer if len(tensor.dims) == 4]
    return max(int(padded[0]), 8) if padded else 8
