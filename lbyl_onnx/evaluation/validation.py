"""Two models side by side in onnxruntime: how far the outputs differ, how accurate and how fast each is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

from ..calibration.synthetic import (
    Normalisation,
    concrete_shapes,
    input_specs,
    samples_within,
    synthetic_inputs,
)
from ..calibration.user_samples import input_array, read_npz
from ..errors import ModelError, UsageError, ValidationFailed
from ..model.file import Model, load_model
from ..model.session import feed_batches, open_session, resolve_provider, run
from .records import OutputComparison, Validation

Source = str | Path | onnx.ModelProto | Model
Data = str | Path | Mapping[str, np.ndarray] | None

EXPECTED = "an .npz file with an array for each input, and perhaps one of labels"
ELEMENTS = 8 * 3 * 224 * 224
"""Elements of synthetic input that are compared by default, within MIN_SAMPLES and MAX_SAMPLES."""
MIN_SAMPLES, MAX_SAMPLES = 4, 16
HELD_OUT = 2**32
"""Added to the seed of synthetic inputs: others than those that a model was calibrated on with the same seed."""
CHUNK = 2**20
BATCH_LIMIT = 4
"""Samples that are compared at once where there are more than ONE_BY_ONE."""
ONE_BY_ONE = 64
LATENCY_SECONDS = 0.4
LATENCY_PAIRS = (3, 200)


def validate(
    original: Source,
    compressed: Source,
    data: Data = None,
    provider: str = "auto",
    samples: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
) -> Validation:
    """Runs both models on the same inputs and compares every tensor output.

    `data` is the path of an .npz file, or a mapping, with one array for each model input, first axis =
    samples, as the model expects them, and optionally `labels`, integers of shape (samples,), which give
    top-1 accuracies on the first output that looks like classes (floating point, samples x K with K >= 2).
    None: `samples` synthetic inputs from `seed` (default: as many as fit ELEMENTS, from 4 to 16), of these
    `shapes` where dynamic and under `normalisation` where images, and others than `calibrate` makes. Where the
    model's batch axis is fixed to B, samples beyond a multiple of B are left out. Outputs are compared slice
    by slice, so any number of samples fits in memory; elements that are not finite in the original are left
    out of the errors, and so are outputs whose sizes follow values (detections) where they differ. Latencies
    are medians of alternating runs of one sample, or one batch of B: those of the comparison where it takes no
    more at once, and as many again of the first sample as LATENCY_SECONDS allow.

    Raises UsageError for data that does not fit the model, ModelError where the original does not load or
    run, ValidationFailed where the compressed model does not, has other inputs, outputs or shapes, or is not
    finite where the original is.
    """
    provider = resolve_provider(provider)
    before, model = _open(original, provider)
    try:
        after, _ = _open(compressed, provider)
    except ModelError as error:
        raise ValidationFailed(f"the compressed model does not load: {error}") from error
    _check_interface(before, after)
    evaluation = _made_up(model, samples, seed, shapes, normalisation) if data is None else _given(model, data)
    feed = next(feed_batches(before, evaluation.inputs, limit=1))
    comparison = _Comparison(evaluation, _rows(feed))
    comparison.run(before, after)
    latency_before, latency_after = _latencies(before, after, feed, comparison.seconds)
    return Validation(
        provider=provider,
        data=evaluation.source,
        samples=comparison.samples,
        outputs=tuple(errors.result() for errors in comparison.outputs.values()),
        free_outputs=tuple(sorted(comparison.free)),
        latency_batch=_rows(feed),
        latency_before_ms=latency_before,
        latency_after_ms=latency_after,
        accuracy_before=comparison.accuracy("before"),
        accuracy_after=comparison.accuracy("after"),
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


def _made_up(
    model: Model,
    samples: int | None,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] | None,
    normalisation: Normalisation | None,
) -> _Evaluation:
    if samples is None:
        chosen = concrete_shapes(input_specs(model), 1, shapes=shapes)
        samples = samples_within(ELEMENTS, chosen, MIN_SAMPLES, MAX_SAMPLES)
    for name, number, least in (("samples", samples, 1), ("seed", seed, 0)):
        if number < least:
            raise UsageError(f"{name} is {number}; expected at least {least}")
    inputs = synthetic_inputs(model, samples, seed + HELD_OUT, shapes, normalisation)
    return _Evaluation(f"synthetic, seed {seed}", inputs, None)


def _given(model: Model, data: str | Path | Mapping[str, np.ndarray]) -> _Evaluation:
    specs = input_specs(model)
    source = "arrays" if isinstance(data, Mapping) else str(data)
    arrays = dict(data) if isinstance(data, Mapping) else read_npz(Path(data), EXPECTED)
    inputs = {spec.name: input_array(spec, arrays, source) for spec in specs}
    batch = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    if len({len(inputs[spec.name]) for spec in specs if spec.shape and spec.shape[0] in (None, batch)}) > 1:
        found = {name: array.shape for name, array in inputs.items()}
        raise UsageError(f"{source}: inputs differ in their number of samples: {found}")
    labels = None
    if "labels" in arrays and "labels" not in inputs:
        labels = _labels(np.asarray(arrays["labels"]), _rows(inputs), source)
    return _Evaluation(source, inputs, labels)


def _labels(labels: np.ndarray, samples: int, source: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise UsageError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; expected integers of shape ({samples},)"
        )
    return labels


def _rows(arrays: Mapping[str, np.ndarray]) -> int:
    """Samples in a set of inputs: the length of the first that is no scalar."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)


# ---- errors


@dataclass
class _Errors:
    """Running sums over one output, in float64."""

    name: str
    shape: tuple[int, ...] = ()
    samples: int = 0
    elements: int = 0
    largest: float = 0.0
    total: float = 0.0
    magnitude: float = 0.0
    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    agreeing: int | None = 0

    def add(self, reference: np.ndarray, found: np.ndarray, samples: int) -> None:
        """One more slice, both of the same shape. Raises ValidationFailed where `found` is not finite."""
        self.samples += samples
        follows = reference.ndim > 0 and len(reference) == samples
        self.shape = (self.samples, *reference.shape[1:]) if follows else reference.shape
        for start in range(0, reference.size, CHUNK):
            old, new = (value.reshape(-1)[start : start + CHUNK].astype(np.float64) for value in (reference, found))
            finite = np.isfinite(old)
            broken = int(np.count_nonzero(finite & ~np.isfinite(new)))
            if broken:
                raise ValidationFailed(
                    f"output {self.name!r} of the compressed model is not finite at {broken} of "
                    f"{len(old)} elements where the original is"
                )
            self._sum(old[finite], new[finite])
        if self.agreeing is not None:
            alike = _top1(reference) == _top1(found) if _is_classes(reference, samples) else None
            self.agreeing = None if alike is None else self.agreeing + int(alike.sum())

    def _sum(self, old: np.ndarray, new: np.ndarray) -> None:
        error = np.abs(old - new)
        self.elements += error.size
        self.largest = max(self.largest, float(error.max(initial=0)))
        self.total += float(error.sum())
        self.magnitude += float(np.abs(old).sum())
        self.noise += float(error @ error)
        self.signal += float(old @ old)
        self.power += float(new @ new)
        self.product += float(old @ new)

    def result(self) -> OutputComparison:
        ratio = self.signal / self.noise if self.noise else math.inf
        alone = math.inf if self.total else 0.0
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        return OutputComparison(
            name=self.name,
            shape=self.shape,
            max_error=self.largest,
            mean_error=self.total / max(self.elements, 1),
            sqnr_db=10 * math.log10(ratio) if ratio else -math.inf,
            cosine=min(self.product / norms, 1.0) if norms else float(self.signal == self.power),
            ware=self.total / self.magnitude if self.magnitude else alone,
            top1_agreement=None if self.agreeing is None else self.agreeing / self.samples,
        )


def _top1(values: np.ndarray) -> np.ndarray:
    return np.argmax(values.astype(np.float32), axis=1)


def _is_numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind in "biuf" or value.dtype == ml_dtypes.bfloat16)


def _is_classes(value: np.ndarray, samples: int) -> bool:
    floating = value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    return floating and value.ndim == 2 and len(value) == samples and value.shape[1] >= 2


class _Comparison:
    """Both models over all samples, slice by slice; `outputs` holds the errors of every numeric output, `free` the
    names of those that cannot be compared, `seconds` the times of both models' runs on slices of `least` samples."""

    def __init__(self, evaluation: _Evaluation, least: int) -> None:
        self.evaluation = evaluation
        self.least = least
        self.outputs: dict[str, _Errors] = {}
        self.free: set[str] = set()
        self.seconds: list[tuple[float, float]] = []
        self.samples = 0
        self.correct: dict[str, int] = {}

    def run(self, before: ort.InferenceSession, after: ort.InferenceSession) -> None:
        free_axes = _free_axes(before)
        names = [value.name for value in before.get_outputs()]
        for feed in feed_batches(before, self.evaluation.inputs, _batch_limit(before, self.evaluation)):
            old, old_seconds = _timed(before, feed)
            try:
                new, new_seconds = _timed(after, feed)
            except ModelError as error:
                raise ValidationFailed(f"the compressed model does not run: {error}") from error
            if _rows(feed) == self.least:
                self.seconds.append((old_seconds, new_seconds))
            values = dict(zip(names, old, strict=True)), dict(zip(names, new, strict=True))
            self.free |= {name for name, free in free_axes.items() if _differ(free, *(each[name] for each in values))}
            self._add(*values, _rows(feed))
        self.outputs = {name: errors for name, errors in self.outputs.items() if name not in self.free}

    def _add(self, old: dict[str, Any], new: dict[str, Any], rows: int) -> None:
        numeric = [name for name, value in old.items() if _is_numeric(value) and name not in self.free]
        for name in numeric:
            if old[name].shape != new[name].shape:
                raise ValidationFailed(
                    f"output {name!r} of the compressed model has shape {new[name].shape}, "
                    f"the original's {old[name].shape}"
                )
            self.outputs.setdefault(name, _Errors(name)).add(old[name], new[name], rows)
        classes = next((name for name in numeric if _is_classes(old[name], rows)), None)
        if classes is not None and self.evaluation.labels is not None:
            labels = self.evaluation.labels[self.samples : self.samples + rows]
            _check_labels(labels, classes, old[classes].shape[1])
            for side, values in (("before", old), ("after", new)):
                hits = int((_top1(values[classes]) == labels).sum())
                self.correct[side] = self.correct.get(side, 0) + hits
        self.samples += rows

    def accuracy(self, side: str) -> float | None:
        """Top-1 accuracy in [0, 1] of the model "before" or "after"; None without labels or classes."""
        return self.correct[side] / self.samples if side in self.correct else None


def _free_axes(session: ort.InferenceSession) -> dict[str, tuple[bool, ...]]:
    """Which axes of each output have a size that neither the model nor an input declares, so that it may follow values:
    those of a name that no input has, and nameless ones but the first."""
    named = {size for value in session.get_inputs() for size in value.shape}
    return {
        value.name: tuple(
            size not in named if isinstance(size, str) else size is None and axis > 0
            for axis, size in enumerate(value.shape)
        )
        for value in session.get_outputs()
    }


def _differ(free: tuple[bool, ...], old: Any, new: Any) -> bool:
    """Whether two tensors have different sizes, all of them along `free` axes."""
    if not (_is_numeric(old) and _is_numeric(new)) or not old.ndim == new.ndim == len(free):
        return False
    differ = [left != right for left, right in zip(old.shape, new.shape, strict=True)]
    return any(differ) and all(axis for axis, differs in zip(free, differ, strict=True) if differs)


def _check_labels(labels: np.ndarray, output: str, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise UsageError(
            f"label {outside[0]} is outside the {classes} classes of output {output!r}; "
            f"labels must lie in 0 to {classes - 1}"
        )


def _batch_limit(session: ort.InferenceSession, evaluation: _Evaluation) -> int:
    """1 for few samples and for a model that declares a dynamic batch but only runs single samples, else BATCH_LIMIT.

    Raises ModelError where the model runs neither.
    """
    for limit in (1,) if _rows(evaluation.inputs) <= ONE_BY_ONE else (BATCH_LIMIT, 1):
        try:
            run(session, next(feed_batches(session, evaluation.inputs, limit)))
            return limit
        except ModelError as error:
            failure = error
    raise ModelError(f"the original model fails on inputs ({evaluation.source}): {failure}")


# ---- speed


def _latencies(
    before: ort.InferenceSession,
    after: ort.InferenceSession,
    feed: dict[str, np.ndarray],
    pairs: list[tuple[float, float]],
) -> tuple[float, float]:
    """Median milliseconds of one run of each, taken in turns: of those in `pairs` already, seconds, and of runs of
    `feed` until there are enough. The first pair warms up and does not count."""
    pairs = list(pairs)
    least, most = LATENCY_PAIRS
    end = time.perf_counter() + LATENCY_SECONDS - sum(map(sum, pairs))
    while len(pairs) <= least or (len(pairs) <= most and time.perf_counter() < end):
        pairs.append((_timed(before, feed)[1], _timed(after, feed)[1]))
    medians = 1000 * np.median(pairs[1:], axis=0)
    return float(medians[0]), float(medians[1])


def _timed(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> tuple[list[Any], float]:
    """The outputs of one run, and its seconds."""
    start = time.perf_counter()
    values = run(session, feed)
    return values, time.perf_counter() - start
