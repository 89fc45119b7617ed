"""Moments of a layer's rows and outputs, gathered batch by batch, and the ridge regression they allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

SINGLE_PRECISION_FROM = 512
RIDGE = 1e-2
"""Strength of the pull towards the present weights, relative to the mean diagonal of the inputs' covariance."""


@dataclass(frozen=True)
class Fitted:
    """`matrix`: float64 (groups, outputs, inputs). `error`: share of the outputs' variance that is left, in [0, 1] up
    to rounding. `condition`: estimated condition number of the ridge system, the worst over the groups."""

    matrix: np.ndarray
    error: float
    condition: float


class RowMoments:
    """Second moments of rows x, (groups, rows, inputs), and outputs y, (rows, groups x outputs): memory does not grow
    with the number of rows. Products in single precision, relative to the first batch's mean, so that a large mean
    costs no digits; sums over batches in float64."""

    def __init__(self, groups: int, outputs: int, inputs: int) -> None:
        self._rows = 0
        self._origin: np.ndarray | None = None
        self._xx = np.zeros((groups, inputs, inputs))
        self._yx = np.zeros((groups, outputs, inputs))
        self._yy = np.zeros((groups, outputs))
        self._x = np.zeros((groups, inputs))
        self._y = np.zeros((groups, outputs))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Rows x (groups, rows, inputs) with outputs y (rows, groups x outputs)."""
        if self._origin is None:
            self._origin = x.mean(axis=1, keepdims=True, dtype=np.float64)
        x = (x - self._origin).astype(np.float32)
        y = np.moveaxis(y.astype(np.float32, copy=False).reshape(len(y), len(self._y), -1), 1, 0)
        self._rows += x.shape[1]
        for group in range(len(x)):
            self._xx[group] += x[group].T @ x[group]
            self._yx[group] += y[group].T @ x[group]
        self._yy += np.einsum("gro,gro->go", y, y, dtype=np.float64)
        self._x += x.sum(axis=1, dtype=np.float64)
        self._y += y.sum(axis=1, dtype=np.float64)

    @property
    def finite(self) -> bool:
        """Whether all rows and outputs were."""
        return all(np.isfinite(sums).all() for sums in (self._xx, self._yx, self._yy))

    def solve(self, present: np.ndarray, centred: bool) -> Fitted:
        """The matrix W that minimises E|y - W x - c|^2 + r |W - present|^2; c is 0 unless `centred`.

        `present`: float64 (groups, outputs, inputs). r is RIDGE times the mean diagonal of the inputs' covariance.
        """
        assert self._origin is not None
        x, y = self._x / self._rows, self._y / self._rows
        xx = self._xx / self._rows - x[:, :, None] * x[:, None, :]
        yx = self._yx / self._rows - y[:, :, None] * x[:, None, :]
        yy = self._yy / self._rows - y**2
        if not centred:
            x = x + self._origin[:, 0]
            xx += x[:, :, None] * x[:, None, :]
            yx += y[:, :, None] * x[:, None, :]
            yy += y**2
        variance = float(yy.sum())
        matrix = np.empty_like(present)
        left, condition = variance, 1.0
        for group in range(len(xx)):
            ridge = RIDGE * np.trace(xx[group]) / xx.shape[1] or 1.0
            step, inverse_condition = _solve(xx[group], ridge, yx[group] - _product(present[group], xx[group]))
            matrix[group] = present[group] + step
            condition = max(condition, 1 / max(inverse_condition, np.finfo(np.float64).eps))
            left -= float(((yx[group] + ridge * step) * matrix[group]).sum())
        return Fitted(matrix, left / variance if variance > 0 else 0.0, condition)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    precision = np.float32 if len(right) > SINGLE_PRECISION_FROM else np.float64
    return left.astype(precision) @ right.astype(precision)


def _solve(gram: np.ndarray, ridge: float, target: np.ndarray) -> tuple[np.ndarray, float]:
    """X with X (gram + ridge I) = target, and the reciprocal condition number.

    Large systems are factorised in single precision, which the ridge affords: what is solved for is a correction.
    Should rounding leave a system indefinite all the same, the ridge grows.
    """
    try:
        return _factorise(gram, ridge, target)
    except linalg.LinAlgError:
        return _factorise(gram, 100 * ridge, target)


def _factorise(gram: np.ndarray, ridge: float, target: np.ndarray) -> tuple[np.ndarray, float]:
    precision = np.float32 if len(gram) > SINGLE_PRECISION_FROM else np.float64
    system = (gram + np.diag(np.full(len(gram), ridge))).astype(precision)
    norm = np.abs(system).sum(axis=0).max()
    factor = linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    estimate = linalg.get_lapack_funcs("pocon", (factor,))
    solved = linalg.cho_solve((factor, True), target.T.astype(factor.dtype), check_finite=False)
    return solved.T.astype(np.float64), float(estimate(factor, norm, uplo="L")[0])


def channel_statistics(values: Iterable[np.ndarray], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel over all batches, float64 (channels,).

    Space is summed in the values' own precision (at least float32), samples and batches in float64.
    """
    total: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0
    count = 0
    for value in values:
        value = value.astype(np.promote_types(value.dtype, np.float32), copy=False)
        rows = value.reshape(-1, value.shape[axis], 1) if axis in (-1, value.ndim - 1) else _spaced(value, axis)
        total = total + rows.sum(axis=2).sum(axis=0, dtype=np.float64)
        square = square + np.einsum("ncp,ncp->nc", rows, rows).sum(axis=0, dtype=np.float64)
        count += value.size // value.shape[axis]
    mean = total / count
    return np.asarray(mean), np.maximum(square / count - mean**2, 0)


def _spaced(value: np.ndarray, axis: int) -> np.ndarray:
    """The value as (samples, channels, positions)."""
    return np.moveaxis(value, axis, 1).reshape(len(value), value.shape[axis], -1)
