"""Moments of a layer's rows and outputs, gathered batch by batch, and the ridge regression they allow."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
from scipy import linalg

SINGLE_PRECISION_FROM = 512
"""Systems of more unknowns are accumulated and solved in single precision, which the ridge affords."""
RIDGE = 1e-2
"""Strength of the pull towards the present weights, relative to the mean diagonal of the inputs' covariance."""
CHUNK = 2**22
"""Elements of rows and outputs that are gathered before they are multiplied."""
SUMMED = 256
FAR = 10
"""Means of so many standard deviations cost single precision too many digits of the variance."""
ORIGIN_ROWS = 256
"""Rows whose mean is taken away from all: near enough for products to keep their digits."""


class Statistics(NamedTuple):
    """Mean and variance of each channel, float64 (channels,)."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """`matrix`: float64 (groups, outputs, inputs). `error`: share of the outputs' variance that is left, in [0, 1] up
    to rounding. `condition`: estimated condition number of the ridge system, the worst over the groups. `wanted`:
    statistics of the outputs y, `fit`: of what the matrix makes of the rows, both over (groups x outputs,)."""

    matrix: np.ndarray
    error: float
    condition: float
    wanted: Statistics
    fit: Statistics


class RowMoments:
    """Second moments of rows x, (groups, rows, inputs), and outputs y, (rows, groups x outputs): memory does not grow
    with the number of rows. Products in single precision, relative to the first rows' mean, so that a large mean
    costs no digits."""

    def __init__(self, groups: int, outputs: int, inputs: int) -> None:
        precision = np.float32 if inputs > SINGLE_PRECISION_FROM else np.float64
        capacity = max(1, CHUNK // (groups * (inputs + outputs)))
        self._blocks = tuple(np.empty((groups, capacity, columns), np.float32) for columns in (inputs, outputs))
        self._filled = 0
        self._origin: tuple[np.ndarray, ...] = ()
        self._rows = 0
        self._xx = np.zeros((groups, inputs, inputs), precision)
        self._yx = np.zeros((groups, outputs, inputs), precision)
        self._yy = np.zeros((groups, outputs))
        self._x = np.zeros((groups, inputs))
        self._y = np.zeros((groups, outputs))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Rows x (groups, rows, inputs) with outputs y (rows, groups x outputs)."""
        if len(y) == 0:
            return
        pair = x, np.moveaxis(y.reshape(len(y), len(self._y), -1), 1, 0)
        if not self._origin:
            self._origin = tuple(rows[:, :ORIGIN_ROWS].mean(axis=1, keepdims=True, dtype=np.float32) for rows in pair)
        capacity, start = self._blocks[0].shape[1], 0
        while start < len(y):
            end = min(start + capacity - self._filled, len(y))
            for rows, origin, block in zip(pair, self._origin, self._blocks, strict=True):
                np.subtract(rows[:, start:end], origin, out=block[:, self._filled : self._filled + end - start])
            self._filled, start = self._filled + end - start, end
            if self._filled == capacity:
                self._multiply()

    def _multiply(self) -> None:
        """Take the rows that wait in the blocks into the sums."""
        if not self._filled:
            return
        x, y = (block[:, : self._filled] for block in self._blocks)
        self._rows, self._filled = self._rows + self._filled, 0
        for group in range(len(x)):
            self._xx[group] += x[group].T @ x[group]
            self._yx[group] += y[group].T @ x[group]
        self._x += sums(x)
        self._y += sums(y)
        self._yy += sums(np.square(y, out=y))

    @property
    def finite(self) -> bool:
        """Whether there were rows, and all of them and their outputs were finite."""
        self._multiply()
        return self._rows > 0 and all(np.isfinite(sums).all() for sums in (self._xx, self._yx, self._yy))

    def solve(self, present: np.ndarray, centred: bool) -> Fitted:
        """The matrix W that minimises E|y - W x - c|^2 + r |W - present|^2; c is 0 unless `centred`.

        `present`: float64 (groups, outputs, inputs). r is RIDGE times the mean diagonal of the inputs' covariance, and
        more where rounding has left that indefinite.
        """
        self._multiply()
        mean = self._x / self._rows + self._origin[0][:, 0]
        y = self._y / self._rows + self._origin[1][:, 0]
        variance = self._yy / self._rows - (self._y / self._rows) ** 2
        matrix, energy = np.empty_like(present), np.empty_like(y)
        left, condition = 0.0, 1.0
        for group in range(len(y)):
            xx, yx = self._central(group)
            if not centred:
                xx += np.outer(mean[group], mean[group]).astype(xx.dtype)
                yx += np.outer(y[group], mean[group])
            matrix[group], inverse_condition, ridge = _solve(xx, yx, present[group])
            step = matrix[group] - present[group]
            condition = max(condition, 1 / max(inverse_condition, np.finfo(np.float64).eps))
            energy[group] = ((yx - ridge * step) * matrix[group]).sum(axis=1)
            left += float(((yx + ridge * step) * matrix[group]).sum())
        fit_mean = np.einsum("goi,gi->go", matrix, mean)
        total = float(variance.sum() if centred else (variance + y**2).sum())
        return Fitted(
            matrix,
            1 - left / total if total > 0 else 0.0,
            condition,
            Statistics(y.ravel(), np.maximum(variance, 0).ravel()),
            Statistics(fit_mean.ravel(), np.maximum(energy if centred else energy - fit_mean**2, 0).ravel()),
        )

    def _central(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Covariance of the inputs, (inputs, inputs), and of outputs with inputs, (outputs, inputs)."""
        x, y = self._x[group] / self._rows, self._y[group] / self._rows
        xx = self._xx[group] / self._xx.dtype.type(self._rows)
        single = x.astype(xx.dtype)
        xx -= np.outer(single, single)
        return xx, self._yx[group] / self._rows - np.outer(y, x)


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


def _solve(gram: np.ndarray, target: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, float, float]:
    """X with X (gram + r I) = target + r present, float64, the reciprocal condition number of that system, and r."""
    ridge = RIDGE * max(float(np.trace(gram)), 0.0) / len(gram) or 1.0
    dominant = ridge + float(np.abs(gram).sum(axis=0).max())
    for strength in (ridge, 100 * ridge):
        with suppress(linalg.LinAlgError):
            return *_factorise(gram, strength, target + strength * present), strength
    return *_factorise(gram, dominant, target + dominant * present), dominant


def _factorise(gram: np.ndarray, ridge: float, target: np.ndarray) -> tuple[np.ndarray, float]:
    system = gram.copy()
    np.einsum("ii->i", system)[:] += ridge
    norm = linalg.get_lapack_funcs("lange", (system,))("1", system.T)
    factor = linalg.cholesky(system.T, lower=True, overwrite_a=True, check_finite=False)
    estimate = linalg.get_lapack_funcs("pocon", (factor,))
    solved = linalg.cho_solve((factor, True), target.T.astype(factor.dtype), check_finite=False)
    return solved.T.astype(np.float64), float(estimate(factor, norm, uplo="L")[0])


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
        rows = value.reshape(-1, value.shape[axis], 1) if axis in (-1, value.ndim - 1) else _spaced(value, axis)
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


def _spaced(value: np.ndarray, axis: int) -> np.ndarray:
    """The value as (samples, channels, positions)."""
    return np.moveaxis(value, axis, 1).reshape(len(value), value.shape[axis], -1)
