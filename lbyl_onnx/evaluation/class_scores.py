"""What a classifier's answers lost, judged without labels by the original's own probabilities.

With p the original's class probabilities of a sample, E[p(its own top-1) - p(the result's top-1)] is the share of right
answers that goes, if the original is as often right as it is sure. Unlike a disagreement of top-1, it does not count a
change between classes that are alike in probability as a full error.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from .records import ClassComparison

SUMS_TO_ONE = 1e-2
SMALLEST = 1e-9
LARGEST = 1e300
"""What infinite scores are taken for; no number is the lowest of all."""
DEVIATIONS = 1.96
"""Half the width of a 95 % interval, in standard errors."""


class ClassScores:
    """The answers of two models, slice by slice. Scores are read as probabilities where the original's all are.

    `understates`: see `SampleSet`; expected losses are multiplied by it.
    """

    def __init__(self, understates: float = 1.0) -> None:
        self._understates = understates
        self._readings = {softmax: _Answers(softmax) for softmax in (False, True)}

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """One more slice of scores that `is_classes` holds for, both of the same shape."""
        if not are_probabilities(reference):
            self._readings.pop(False, None)
        for reading in self._readings.values():
            reading.add(reference, found)

    def result(self) -> ClassComparison:
        """The record of all slices."""
        return next(iter(self._readings.values())).result(self._understates)


class _Answers:
    """Sums over the answers of two models, whose scores are read by a softmax or as they are."""

    def __init__(self, softmax: bool) -> None:
        self._softmax = softmax
        self._losses: list[np.ndarray] = []
        self._agreeing = 0
        self._divergence = 0.0
        self._confidence = 0.0

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        before, after = (probabilities(scores, self._softmax) for scores in (reference, found))
        first, second = before.argmax(axis=1), after.argmax(axis=1)
        rows = np.arange(len(before))
        self._losses.append(before[rows, first] - before[rows, second])
        self._agreeing += int((first == second).sum())
        self._divergence += float((before * np.log(before / after)).sum())
        self._confidence += float(before[rows, first].sum())

    def result(self, factor: float) -> ClassComparison:
        losses = np.concatenate(self._losses)
        count, confidence = len(losses), self._confidence / len(losses)
        loss = float(losses.mean())
        # one more answer than were seen to change keeps the interval from closing where none did
        deviation = math.sqrt((float(((losses - loss) ** 2).sum()) + confidence**2) / count)
        reach = DEVIATIONS * deviation / math.sqrt(count)
        low, middle, high = (
            min(factor * each, 1.0) for each in (max(loss - reach, 0.0), loss, min(loss + reach, confidence))
        )
        return ClassComparison(
            agreement=self._agreeing / count,
            divergence=self._divergence / count,
            confidence=confidence,
            expected_loss=middle,
            expected_loss_interval=(low, high),
        )


def is_classes(value: np.ndarray, samples: int) -> bool:
    """Whether an output looks like scores of classes: floating point, (samples, K) with K >= 2, further axes of 1."""
    floating = value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    matrix = value.ndim >= 2 and math.prod(value.shape[2:]) == 1
    return floating and matrix and len(value) == samples and value.shape[1] >= 2


def top1(values: np.ndarray) -> np.ndarray:
    """The class of the highest score, int64 (samples,)."""
    return np.argmax(values.reshape(len(values), -1).astype(np.float32), axis=1)


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether scores of classes are probabilities already, not what a softmax makes some of."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < SUMS_TO_ONE).all())


def probabilities(scores: np.ndarray, softmax: bool) -> np.ndarray:
    """Probabilities of classes, float64 (samples, classes), none of them 0."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    rows = np.nan_to_num(rows, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
    if softmax:
        rows = np.exp(np.clip(rows - rows.max(axis=1, keepdims=True), -700, 0))
    rows = np.maximum(rows, SMALLEST)
    return rows / rows.sum(axis=1, keepdims=True)
