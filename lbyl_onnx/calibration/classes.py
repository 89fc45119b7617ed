"""Scores of classes among a model's outputs, and the probabilities that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..model.tensors import is_floating

SUMS_TO_ONE = 1e-2
SMALLEST = 1e-9
LEAST_CONFIDENCE = 0.05
"""How far above chance, as a share of the way to certainty, a classifier has to be for its answers to count."""
LARGEST = 1e300
"""What infinite scores are taken for; no number is the lowest of all."""


def is_classes(value: np.ndarray, samples: int) -> bool:
    """Whether an output looks like scores of classes: floating point, (samples, K) with K >= 2, further axes of 1."""
    matrix = value.ndim >= 2 and math.prod(value.shape[2:]) == 1
    return is_floating(value) and matrix and len(value) == samples and value.shape[1] >= 2


def class_outputs(outputs: Mapping[str, np.ndarray], samples: int) -> list[str]:
    """Names of those outputs that look like scores of classes, in their order.

    Where some are probabilities, others are no scores unless they are of as many classes: a detector's boxes are not.
    Neither is one number at each of K places, (samples, K, 1), where another output has several, (samples, K, M).
    """
    places = {value.shape[:2] for value in outputs.values() if value.ndim == 3 and value.shape[2] > 1}
    found = [
        name
        for name, value in outputs.items()
        if is_classes(value, samples) and not (value.ndim == 3 and value.shape[:2] in places)
    ]
    counts = {outputs[name].shape[1] for name in found if are_probabilities(outputs[name])}
    return [name for name in found if not counts or outputs[name].shape[1] in counts]


def is_sure(confidence: float, classes: int) -> bool:
    """Whether a mean probability of the likeliest of so many classes is enough for a classifier."""
    chance = 1 / classes
    return (confidence - chance) / (1 - chance) >= LEAST_CONFIDENCE


def top1(values: np.ndarray) -> np.ndarray:
    """The class of the highest score, int64 (samples,)."""
    return np.argmax(values.reshape(len(values), -1).astype(np.float32), axis=1)


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether scores of classes are probabilities already, not what a softmax makes some of."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < SUMS_TO_ONE).all())


def probabilities(scores: np.ndarray, softmax: bool) -> np.ndarray:
    """Probabilities of classes, float64 (samples, classes), none of them 0."""
    rows = scores.reshape(len(scores), math.prod(scores.shape[1:])).astype(np.float64)
    rows = np.nan_to_num(rows, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
    if softmax:
        rows = np.exp(np.clip(rows - rows.max(axis=1, keepdims=True), -700, 0))
    rows = np.maximum(rows, SMALLEST)
    return rows / rows.sum(axis=1, keepdims=True)


def divergence(before: np.ndarray, after: np.ndarray) -> float:
    """Kullback-Leibler divergence of probabilities from others, in nats, summed over all rows."""
    return float((before * np.log(before / after)).sum())
