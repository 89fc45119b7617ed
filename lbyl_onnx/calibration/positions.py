"""Classes at each of many positions, as of a segmented image or a line of text: a sample has an answer at each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..model.tensors import is_floating
from .classes import are_probabilities, divergence, is_classes, probabilities
from .statistics import spaced

LEAST_LOGITS = 5
"""Channels of an output as large as the image from which on it may hold scores of classes: fewer may be colours or
motion."""
SURE = 0.5
"""Mean probability of the likeliest class from which on it does."""
MOST_POSITIONS = 2**13
"""Positions of each sample that are looked at, evenly spread over all."""
LEAST_INFORMATION = 1e-4
"""Nats for each position, below which answers say nothing that could be lost."""


@dataclass(frozen=True)
class PositionClasses:
    """Where an output holds scores of classes. `axis`: that of the classes; `softmax`: whether a softmax makes
    probabilities of the scores, or they are some already."""

    axis: int
    softmax: bool

    def probabilities(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Of each sample, float64 (positions, classes), none of them 0."""
        for scores in _scores(values, self.axis):
            taken = np.linspace(0, len(scores) - 1, min(len(scores), MOST_POSITIONS)).round().astype(int)
            yield probabilities(scores[taken], self.softmax)

    def divergence(self, answers: Iterable[np.ndarray], found: np.ndarray) -> float:
        """Kullback-Leibler divergence of an output from the answers of each of its samples, in nats, summed over all
        positions."""
        pairs = zip(answers, self.probabilities(found), strict=True)
        return sum(divergence(before, after) for before, after in pairs)


def position_classes(value: np.ndarray, samples: int, inputs: Mapping[str, np.ndarray]) -> PositionClasses | None:
    """Where an output, given for these `inputs`, holds scores of classes at each position; None where it does not look
    so: neither are its values probabilities along an axis, nor is it as large as an image and sure of some channel."""
    follows = value.ndim > 2 and len(value) == samples and value.size > 0
    if not is_floating(value) or not follows or is_classes(value, samples):
        return None
    for axis in (value.ndim - 1, 1):
        if value.shape[axis] > 1 and all(map(are_probabilities, _scores(value, axis))):
            return PositionClasses(axis, False)
    images = {tuple(array.shape[at : at + 2]) for array in inputs.values() if array.ndim == 4 for at in (1, 2)}
    for axis in (1, 3) if value.ndim == 4 else ():
        sizes = value.shape[1:axis] + value.shape[axis + 1 :]
        if sizes in images and value.shape[axis] >= LEAST_LOGITS:
            found = PositionClasses(axis, True)
            sure = np.mean([each.max(axis=1).mean() for each in found.probabilities(value)])
            return found if sure >= SURE else None
    return None


@dataclass
class Information:
    """What answers tell of their samples: how far they are from the mean over samples at the same position (the
    Kullback-Leibler divergence, in nats, summed over positions and samples)."""

    samples: int = 0
    _sum: np.ndarray = field(default_factory=lambda: np.empty(0))
    _negentropy: float = 0.0
    _of_one_size: bool = True

    def add(self, answers: np.ndarray) -> None:
        """Those of one more sample, float64 (positions, classes)."""
        self.samples += 1
        if self.samples == 1:
            self._sum = np.zeros_like(answers)
        self._of_one_size &= self._sum.shape == answers.shape
        if self._of_one_size:
            self._sum += answers
            self._negentropy += float((answers * np.log(answers)).sum())

    @property
    def nats(self) -> float | None:
        """None where there is one sample, sizes differ, or answers are as good as the same."""
        if self.samples < 2 or not self._of_one_size:
            return None
        mean = self._sum / self.samples
        spread = self._negentropy - self.samples * float((mean * np.log(mean)).sum())
        told = spread * self.samples / (self.samples - 1)
        return told if told >= LEAST_INFORMATION * len(mean) * self.samples else None


def information(answers: Iterable[np.ndarray]) -> float:
    """What the answers of all samples tell of them, in nats; 0 where that is not known."""
    found = Information()
    for each in answers:
        found.add(each)
    return found.nats or 0.0


def _scores(values: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """Those of each sample, (positions, classes), the latter from an axis."""
    return (sample.T for sample in spaced(values, axis))
