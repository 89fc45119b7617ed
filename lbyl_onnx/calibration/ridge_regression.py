"""Moments of a layer's rows and outputs, gathered batch by batch, and the ridge regression they allow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from .statistics import Statistics, sums

SINGLE_PRECISION_INPUTS = 512
"""Systems of more unknowns are accumulated and solved in single precision, which the ridge affords."""
CHUNK = 2**22
"""Elements of rows and outputs that are gathered before they are multiplied."""
ORIGIN_ROWS = 256
"""Rows whose mean is taken away from all: near enough for products to keep their digits."""


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
        precision = np.float32 if inputs > SINGLE_PRECISION_INPUTS else np.float64
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

    def solve(self, present: np.ndarray, centred: bool, ridge: float = 1e-2) -> Fitted:
        """The matrix W that minimises E|y - W x - c|^2 + r |W - present|^2; c is 0 unless `centred`.

        `present`: float64 (groups, outputs, inputs). r is `ridge` times the mean diagonal of the inputs' covariance,
        and more where rounding has left that indefinite.
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
            matrix[group], inverse_condition, strength = _solve(xx, yx, present[group], ridge)
            step = matrix[group] - present[group]
            condition = max(condition, 1 / max(inverse_condition, np.finfo(np.float64).eps))
            energy[group] = ((yx - strength * step) * matrix[group]).sum(axis=1)
            left += float(((yx + strength * step) * matrix[group]).sum())
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


def _solve(gram: np.ndarray, target: np.ndarray, present: np.ndarray, ridge: float) -> tuple[np.ndarray, float, float]:
    """X with X (gram + r I) = target + r present, float64, the reciprocal condition number of that system, and r."""
    wanted = ridge * max(float(np.trace(gram)), 0.0) / len(gram) or 1.0
    dominant = wanted + float(np.abs(gram).sum(axis=0).max())
    for strength in (wanted, 100 * wanted):
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
