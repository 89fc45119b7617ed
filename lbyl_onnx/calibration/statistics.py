"""Mean and variance of activations, channel by channel, in a precision that large means do not spoil."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import ml_dtypes
import numpy as np

SUMMED = 256
FAR = 10
"""Means of so many standard deviations cost single precision too many digits of the variance."""


class Statistics(NamedTuple):
    """Mean and variance of each channel, float64 (channels,)."""

    mean: np.ndarray
    variance: np.ndarray


def channel_statistics(values: Iterable[np.ndarray], axis: int) -> Statistics | None:
    """Mean and variance of each channel over all batches; None where these are empty.

    Space is summed in the values' own precision (at least float32), samples and batches in float64; the squares of
    channels whose mean is large all in float64.
    """
    total: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0
    count = 0
    for value in values:
        if value.size == 0:
            continue
        value = value.astype(np.promote_types(value.dtype, np.float32), copy=False)
        rows = value.reshape(-1, value.shape[axis], 1) if axis in (-1, value.ndim - 1) else spaced(value, axis)
        linear = rows.sum(axis=2).sum(axis=0, dtype=np.float64)
        squares = np.einsum("ncp,ncp->nc", rows, rows).sum(axis=0, dtype=np.float64)
        number = value.size // value.shape[axis]
        far = linear**2 > FAR**2 / (1 + FAR**2) * number * squares
        if far.any():
            exact = rows[:, far].astype(np.float64)
            linear[far], squares[far] = exact.sum(axis=(0, 2)), np.einsum("ncp,ncp->c", exact, exact)
        total, square, count = total + linear, square + squares, count + number
    if count == 0:
        return None
    mean = total / count
    return Statistics(np.asarray(mean), np.maximum(square / count - mean**2, 0))


def spaced(value: np.ndarray, axis: int) -> np.ndarray:
    """The value as (samples, channels, positions)."""
    return np.moveaxis(value, axis, 1).reshape(len(value), value.shape[axis], -1)


def sums(rows: np.ndarray) -> np.ndarray:
    """Sums of rows (..., rows, columns) over the rows, float64: of blocks in their own precision, then of these."""
    ones = np.ones(SUMMED, rows.dtype)
    starts = range(0, rows.shape[-2], SUMMED)
    blocks = [ones[: rows.shape[-2] - start] @ rows[..., start : start + SUMMED, :] for start in starts]
    return np.array(blocks, np.float64).sum(axis=0)


def within(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`value` in a floating-point type that may have a smaller range, whose ends take what lies beyond."""
    info = ml_dtypes.finfo(dtype)
    return np.clip(value, float(info.min), float(info.max)).astype(dtype)
