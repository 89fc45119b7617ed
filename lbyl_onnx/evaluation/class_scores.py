"""What a classifier's answers lost, judged without labels by the original's own probabilities.

With p the original's class probabilities of a sample, E[p(its own top-1) - p(the result's top-1)] is the share of right
answers that goes, if the original is as often right as it is sure. Unlike a disagreement of top-1, it does not count a
change between classes that are alike in probability as a full error.
"""

from __future__ import annotations

import math

import numpy as np

from ..calibration.classes import are_probabilities, divergence, probabilities
from ..calibration.positions import Information, PositionClasses
from .records import ClassComparison, PositionComparison

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
        self._divergence += divergence(before, after)
        self._confidence += float(before[rows, first].sum())

    def result(self, factor: float) -> ClassComparison:
        losses = np.concatenate(self._losses)
        count, confidence = len(losses), self._confidence / len(losses)
        loss = float(losses.mean())
        # one more change as dear as the dearest, or where none was seen a whole answer, keeps the interval from closing
        unseen = float(losses.max()) or confidence
        deviation = math.sqrt((float(((losses - loss) ** 2).sum()) + unseen**2) / count)
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


class PositionScores:
    """The answers of two models at each of many positions, slice by slice."""

    def __init__(self, classes: PositionClasses) -> None:
        self._classes = classes
        self._information = Information()
        self._positions = self._agreeing = 0
        self._divergence = 0.0

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """One more slice of scores, both of the same shape."""
        answers = zip(self._classes.probabilities(reference), self._classes.probabilities(found), strict=True)
        for before, after in answers:
            self._information.add(before)
            self._positions += len(before)
            self._agreeing += int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
            self._divergence += divergence(before, after)

    def result(self) -> PositionComparison:
        """The record of all slices."""
        told = self._information.nats
        return PositionComparison(self._agreeing / self._positions, self._divergence / told if told else None)
