"""Both models over all samples, slice by slice: errors of every output, accuracies, and times of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from ..calibration.classes import class_outputs, top1
from ..calibration.positions import position_classes
from ..calibration.user_samples import SampleSet
from ..errors import ModelError, UsageError, ValidationFailed
from ..model.session import feed_batches, rows_of, run
from .class_scores import ClassScores, PositionScores
from .latency import timed
from .output_errors import OutputErrors, is_numeric

BATCH_LIMIT = 4
"""Samples that are compared at once where there are more than ONE_BY_ONE."""
ONE_BY_ONE = 64


class Comparison:
    """Both models over all samples, slice by slice; `outputs` holds the errors of every numeric output, `free` the
    names of those that cannot be compared, `seconds` the times of both models' runs on slices of `least` samples;
    `answering` the one that labels belong to, the first that looks like classes."""

    def __init__(self, evaluation: SampleSet, least: int, outputs: dict[str, OutputErrors] | None = None) -> None:
        self.evaluation = evaluation
        self.least = least
        self.outputs = {} if outputs is None else outputs
        self.free: set[str] = set()
        self.seconds: list[tuple[float, float]] = []
        self.samples = 0
        self.answering: str | None = None
        self.correct: dict[str, int] = {}

    def run(self, before: ort.InferenceSession, after: ort.InferenceSession) -> None:
        free_axes = _free_axes(before)
        names = [value.name for value in before.get_outputs()]
        for feed in feed_batches(before, self.evaluation.inputs, _batch_limit(before, self.evaluation)):
            old, old_seconds = timed(before, feed)
            try:
                new, new_seconds = timed(after, feed)
            except ModelError as error:
                raise ValidationFailed(f"the compressed model does not run: {error}") from error
            if rows_of(feed) == self.least:
                self.seconds.append((old_seconds, new_seconds))
            values = dict(zip(names, old, strict=True)), dict(zip(names, new, strict=True))
            self.free |= {name for name, free in free_axes.items() if _differ(free, *(each[name] for each in values))}
            self._add(feed, *values)
        for name in self.free & self.outputs.keys():
            del self.outputs[name]

    def _add(self, feed: Mapping[str, np.ndarray], old: dict[str, Any], new: dict[str, Any]) -> None:
        rows = rows_of(feed)
        numeric = [name for name, value in old.items() if is_numeric(value) and name not in self.free]
        found = class_outputs({name: old[name] for name in numeric}, rows)
        for name in numeric:
            if old[name].shape != new[name].shape:
                raise ValidationFailed(
                    f"output {name!r} of the compressed model has shape {new[name].shape}, "
                    f"the original's {old[name].shape}"
                )
            if name not in self.outputs:
                self.outputs[name] = self._errors(name, old[name], rows, feed, name in found)
            self.outputs[name].add(old[name], new[name], rows)
        if not self.samples:
            self.answering = next((name for name in found if self._labelled(old[name].shape[1])), None)
        if self.answering is not None:
            self._count(old[self.answering], new[self.answering], rows)
        self.samples += rows

    def _errors(
        self, name: str, value: np.ndarray, rows: int, feed: Mapping[str, np.ndarray], classes: bool
    ) -> OutputErrors:
        """What is looked at in an output, by its first slice."""
        scores = ClassScores(self.evaluation.understates) if classes else None
        positions = None if classes else position_classes(value, rows, feed)
        return OutputErrors(name, classes=scores, positions=PositionScores(positions) if positions else None)

    def _count(self, old: np.ndarray, new: np.ndarray, rows: int) -> None:
        """Right answers of both models."""
        assert self.evaluation.labels is not None and self.answering is not None
        labels = self.evaluation.labels[self.samples : self.samples + rows]
        _check_labels(labels, self.answering, old.shape[1])
        for side, values in (("before", old), ("after", new)):
            self.correct[side] = self.correct.get(side, 0) + int((top1(values) == labels).sum())

    def _labelled(self, classes: int) -> bool:
        """Whether the samples have labels for so many classes."""
        return self.evaluation.labels is not None and self.evaluation.classes in (None, classes)

    def accuracy(self, side: str) -> float | None:
        """Top-1 accuracy in [0, 1] of the model "before" or "after"; None without labels or classes."""
        known = self.answering is not None and self.answering not in self.free
        return self.correct[side] / self.samples if known else None


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
    if not (is_numeric(old) and is_numeric(new)) or not old.ndim == new.ndim == len(free):
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


def _batch_limit(session: ort.InferenceSession, evaluation: SampleSet) -> int:
    """1 for few samples and for a model that declares a dynamic batch but only runs single samples, else BATCH_LIMIT.

    Raises ModelError where the model runs neither.
    """
    for limit in (1,) if evaluation.samples <= ONE_BY_ONE else (BATCH_LIMIT, 1):
        try:
            run(session, next(feed_batches(session, evaluation.inputs, limit)))
            return limit
        except ModelError as error:
            failure = error
    raise ModelError(f"the original model fails on inputs ({evaluation.source}): {failure}")
