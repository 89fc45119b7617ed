"""Two models side by side in onnxruntime: how far the outputs differ, how accurate and how fast each is."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lbyl_onnx.errors import ModelError, UsageError, ValidationFailed
from lbyl_onnx.model_file import Model, load_model
from lbyl_onnx.report import OutputComparison, Validation
from lbyl_onnx.runtime import feed_batches, open_session, resolve_provider, run
from lbyl_onnx.synthetic import InputSpec, format_shape, input_specs, synthetic_inputs

Source = str | Path | onnx.ModelProto | Model
Data = str | Path | Mapping[str, np.ndarray] | None

CHUNK = 2**20
LATENCY_SECONDS = 1.5
LATENCY_PAIRS = (3, 200)


def validate(
    original: Source,
    compressed: Source,
    data: Data = None,
    provider: str = "auto",
    samples: int = 16,
    seed: int = 0,
) -> Validation:
    """Runs both models on the same inputs and compares every tensor output.

    `data` is the path of an .npz file, or a mapping, with one array for each model input, first axis =
    samples, as the model expects them, and optionally `labels`, integers of shape (samples,), which give
    top-1 accuracies on the first output that looks like classes (floating point, samples x K with K >= 2).
    None: `samples` synthetic inputs from `seed`. Where the model's batch axis is fixed to B, samples beyond
    a multiple of B are left out. Outputs are compared slice by slice, so any number of samples fits in
    memory; elements that are not finite in the original are left out of the errors. Latencies are medians of
    alternating runs of one sample, or one batch of B.

    Raises UsageError for data that does not fit the model, ModelError where the original does not load or
    run, ValidationFailed where the compressed model does not, has other inputs, outputs or shapes, or is not
    finite where the original is.
    """
    provider = resolve_provider(provider)
    before, model = _open(original, provider)
    try:
        after, other = _open(compressed, provider)
    except ModelError as error:
        raise ValidationFailed(f"the compressed model does not load: {error}") from error
    _check_interface(before, after)
    evaluation = _evaluation(model, data, samples, seed)
    comparison = _compare(before, after, evaluation)
    feed = next(feed_batches(before, evaluation.inputs, limit=1))
    latency_before, latency_after = _latencies(before, after, feed)
    return Validation(
        provider=provider,
        data=evaluation.source,
        samples=comparison.samples,
        outputs=tuple(errors.result() for errors in comparison.outputs.values()),
        latency_batch=_rows(feed),
        latency_before_ms=latency_before,
        latency_after_ms=latency_after,
        accuracy_before=comparison.accuracy(0),
        accuracy_after=comparison.accuracy(1),
    )


def _open(source: Source, provider: str) -> tuple[ort.InferenceSession, Model]:
    model = source if isinstance(source, Model) else load_model(source)
    return open_session(model, provider), model


def _check_interface(before: ort.InferenceSession, after: ort.InferenceSession) -> None:
    sides = {
        "inputs": (before.get_inputs(), after.get_inputs()),
        "outputs": (before.get_outputs(), after.get_outputs()),
    }
    for kind, (expected, found) in sides.items():
        old, new = ({value.name: value.type for value in values} for values in (expected, found))
        if old != new:
            raise ValidationFailed(f"the {kind} differ: the original has {old}, the compressed model {new}")


# ---- data


@dataclass(frozen=True)
class _Evaluation:
    """Inputs with first axis = samples, labels of shape (samples,), and where they came from."""

    source: str
    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None


def _evaluation(model: Model, data: Data, samples: int, seed: int) -> _Evaluation:
    specs = input_specs(model)
    if data is None:
        if samples < 1:
            raise UsageError(f"samples is {samples}; expected at least 1")
        return _Evaluation(f"synthetic, seed {seed}", synthetic_inputs(model, samples, seed), None)
    source = "arrays" if isinstance(data, Mapping) else str(data)
    arrays = dict(data) if isinstance(data, Mapping) else _read_npz(Path(data))
    inputs = {spec.name: _input(spec, arrays, source) for spec in specs}
    counts = {len(inputs[spec.name]) for spec in specs if spec.shape and spec.shape[0] in (None, 1)}
    if len(counts) > 1:
        found = {name: array.shape for name, array in inputs.items()}
        raise UsageError(f"{source}: inputs differ in their number of samples: {found}")
    labels = None
    if "labels" in arrays and "labels" not in inputs:
        labels = _labels(np.asarray(arrays["labels"]), _rows(inputs), source)
    return _Evaluation(source, inputs, labels)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; give an .npz file with arrays named as the inputs") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path}: not a readable .npz file of plain arrays ({type(error).__name__}); write it with "
            "numpy.savez, without object arrays"
        ) from error


def _input(spec: InputSpec, arrays: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    if spec.name not in arrays:
        raise UsageError(f"{source}: no array named {spec.name!r} as the model's input; found {sorted(arrays)}")
    array = np.asarray(arrays[spec.name])
    where = f"{source}: array {spec.name!r}"
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise UsageError(f"{where} is {array.dtype}, the model expects {spec.dtype}; convert it")
    same_rank = array.ndim == len(spec.shape)
    if not same_rank or any(
        expected not in (None, found)
        for found, expected in zip(array.shape[1:], spec.shape[1:], strict=True)
    ):
        expected_shape = format_shape(("samples", *spec.shape[1:]) if spec.shape else ())
        raise UsageError(f"{where} has shape {array.shape}, the model expects {expected_shape}")
    if array.size == 0:
        raise UsageError(f"{where} is empty, shape {array.shape}; give at least one sample")
    return array.astype(spec.dtype, copy=False)


def _labels(labels: np.ndarray, samples: int, source: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise UsageError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; expected integers of shape ({samples},)"
        )
    return labels


def _rows(arrays: Mapping[str, np.ndarray]) -> int:
    """Samples in a set of inputs: the length of the first that is no scalar."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)
