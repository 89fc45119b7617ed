"""Scores of classes among a model's outputs, and the probabilities that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np

SUMS_TO_ONE = 1e-2
SMALLEST = 1e-9
LARGEST = 1e300
"""What infinite scores are taken for; no number is the lowest of all."""


def is_classes(value: np.ndarray, samples: int) -> bool:
    """Whether an output looks like scores of classes: floating point, (samples, K) with K >= 2, further axes of 1."""
    floating = value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    matrix = value.ndim >= 2 and math.prod(value.shape[2:]) == 1
    return floating and matrix and len(value) == samples and value.shape[1] >= 2


def class_outputs(outputs: Mapping[str, np.ndarray], samples: int) -> list[str]:
    """Names of those outputs that look like scores of classes, in their order. Where some are probabilities, others are
    no scores unless they are of as many classes: a detector's boxes are not."""
    found = [name for name, value in outputs.items() if is_classes(value, samples)]
    counts = {outputs[name].shape[1] for name in found if are_probabilities(outputs[name])}
    return [name for name in found if not counts or outputs[name].shape[1] in counts]


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
