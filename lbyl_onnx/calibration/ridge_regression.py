"""Moments of a layer's rows and outputs, gathered batch by batch, and the ridge regression they allow.

How strong the ridge has to be differs from layer to layer by five orders of magnitude: rows may be many and all alike.
So samples come in folds, each with moments of its own, and the strength is the one whose fit to the other folds leaves
least of the outputs' variance on a fold that it has not seen; or none, and the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from scipy import linalg

from .statistics import Statistics, sums

SINGLE_PRECISION_INPUTS = 512
"""Systems of more unknowns are accumulated and solved in single precision, which the ridge affords."""
CHUNK = 2**23
"""Elements of rows and outputs that are gathered before they are multiplied."""
ORIGIN_ROWS = 256
"""Rows whose mean is taken away from all: near enough for products to keep their digits."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridge strengths that are compared, relative to the mean diagonal of the inputs' moments."""
FIRST_TRIED = 1
"""The one of them that the search begins with, and that a single fold has to do with."""
JUDGED_OUTPUTS = 64
"""Strengths are judged by so many outputs of a group, evenly spread: all of a layer's want much the same."""
JUDGED_ON_EACH_FOLD = 1024
"""Systems of more unknowns are judged on one fold alone."""


@dataclass(frozen=True)
class Fitted:
    """`matrix`: float64 (groups, outputs, inputs). `error`: share of the outputs' variance that is left on samples that
    were not fitted (on the samples, where they are one fold), at least 0. `condition`: estimated condition number of
    the ridge system, the worst over the groups. `strength`: of the ridge, infinite where the weights stay. `wanted`:
    statistics of the outputs y, `fit`: of what the matrix makes of the rows, both over (groups x outputs,)."""

    matrix: np.ndarray
    error: float
    condition: float
    strength: float
    wanted: Statistics
    fit: Statistics


class Moments(NamedTuple):
    """Means, (groups, inputs) and (groups, outputs), and second moments about a point: of inputs, (groups, inputs,
    inputs), outputs with inputs, (groups, outputs, inputs), and of each output, (groups, outputs)."""

    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    yx: np.ndarray
    yy: np.ndarray

    def about(self, x: np.ndarray, y: np.ndarray) -> Moments:
        """Central moments as those about the point (x, y)."""
        if x is self.x and y is self.y:
            return self
        dx, dy = (self.x - x).astype(self.xx.dtype), self.y - y
        return self._replace(
            xx=self.xx + dx[:, :, None] * dx[:, None], yx=self.yx + dy[:, :, None] * dx[:, None], yy=self.yy + dy**2
        )

    def point(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """What moments are taken about: the means, or 0."""
        return (self.x, self.y) if centred else (np.zeros_like(self.x), np.zeros_like(self.y))

    def left(self, matrix: np.ndarray) -> float:
        """The sum of squares that outputs differ by from what `matrix` makes of the inputs."""
        matrix = matrix.astype(self.xx.dtype, copy=False)
        return float(self.yy.sum() + ((matrix @ self.xx - 2 * self.yx) * matrix).sum(dtype=np.float64))

    def energy(self, matrix: np.ndarray) -> np.ndarray:
        """The mean squares of what `matrix` makes of the inputs, float64 (groups, outputs)."""
        matrix = matrix.astype(self.xx.dtype, copy=False)
        return ((matrix @ self.xx) * matrix).sum(axis=2, dtype=np.float64)

    def missing(self, matrix: np.ndarray) -> np.ndarray:
        """How the outputs less what `matrix` makes of the inputs go with the inputs, (groups, outputs, inputs)."""
        return self.yx - matrix.astype(self.xx.dtype, copy=False) @ self.xx

    @property
    def scale(self) -> np.ndarray:
        """What ridge strengths are relative to, (groups,): the mean diagonal of the inputs' moments."""
        traces = np.einsum("gii->g", self.xx).astype(np.float64)
        return np.where(traces > 0, traces, self.xx.shape[1]) / self.xx.shape[1]


class _Sums:
    """Sums of the rows of one fold, relative to an origin that all folds share. `blocks`: rows and outputs that wait to
    be multiplied, of which there are `filled`."""

    def __init__(self, groups: int, outputs: int, inputs: int, capacity: int) -> None:
        precision = np.float32 if inputs > SINGLE_PRECISION_INPUTS else np.float64
        self.capacity = capacity
        self.blocks: tuple[np.ndarray, ...] = ()
        self.filled = self.rows = 0
        self.xx = np.zeros((groups, inputs, inputs), precision)
        self.yx = np.zeros((groups, outputs, inputs), precision)
        self.yy = np.zeros((groups, outputs))
        self.x = np.zeros((groups, inputs))
        self.y = np.zeros((groups, outputs))

    def add(self, pair: tuple[np.ndarray, np.ndarray], origin: tuple[np.ndarray, ...]) -> None:
        if not self.blocks:
            self.blocks = tuple(np.empty((len(each), self.capacity, each.shape[2]), np.float32) for each in pair)
        count, start = pair[0].shape[1], 0
        while start < count:
            end = min(start + self.capacity - self.filled, count)
            for rows, zero, block in zip(pair, origin, self.blocks, strict=True):
                np.subtract(rows[:, start:end], zero, out=block[:, self.filled : self.filled + end - start])
            self.filled, start = self.filled + end - start, end
            if self.filled == self.capacity:
                self.multiply()

    def finish(self) -> None:
        """Take the rows that wait into the sums, and give their memory back."""
        if self.filled:
            self.multiply()
        self.blocks = ()

    def multiply(self) -> None:
        """Take the rows that wait into the sums."""
        x, y = (block[:, : self.filled] for block in self.blocks)
        self.rows, self.filled = self.rows + self.filled, 0
        for group in range(len(x)):
            self.xx[group] += x[group].T @ x[group]
            self.yx[group] += y[group].T @ x[group]
        self.x += sums(x)
        self.y += sums(y)
        self.yy += sums(np.square(y, out=y))


class RowMoments:
    """Second moments of rows x, (groups, rows, inputs), and outputs y, (rows, groups x outputs), of each fold: memory
    does not grow with the number of rows. Products in single precision, relative to the first rows' mean, so that a
    large mean costs no digits."""

    def __init__(self, groups: int, outputs: int, inputs: int, folds: int = 1) -> None:
        capacity = max(1, CHUNK // (groups * (inputs + outputs) * folds))
        self._folds = [_Sums(groups, outputs, inputs, capacity) for _ in range(folds)]
        self._origin: tuple[np.ndarray, ...] = ()

    def add(self, x: np.ndarray, y: np.ndarray | None = None, fold: int = 0) -> None:
        """Rows x (groups, rows, inputs) with outputs y (rows, groups x outputs), None where there are none."""
        groups, count, _ = x.shape
        if count == 0:
            return
        pair = x, x[..., :0] if y is None else np.moveaxis(y.reshape(count, groups, -1), 1, 0)
        if not self._origin:
            self._origin = tuple(rows[:, :ORIGIN_ROWS].mean(axis=1, keepdims=True, dtype=np.float32) for rows in pair)
        self._folds[fold].add(pair, self._origin)

    @property
    def finite(self) -> bool:
        """Whether there were rows, and all of them and their outputs were finite."""
        self._finish()
        found = [fold for fold in self._folds if fold.rows]
        return bool(found) and all(np.isfinite(each).all() for fold in found for each in (fold.xx, fold.yx, fold.yy))

    @property
    def folds(self) -> np.ndarray:
        """The folds that have rows, int64."""
        return np.flatnonzero([fold.rows + fold.filled for fold in self._folds])

    def central(self, folds: np.ndarray) -> Moments:
        """Means and central moments over the rows of some folds together."""
        self._finish()
        return _moments(self._origin, [self._folds[fold] for fold in folds])

    def _finish(self) -> None:
        for fold in self._folds:
            fold.finish()

    def solve(self, present: np.ndarray, centred: bool) -> Fitted:
        """The matrix W that minimises E|y - W x - c|^2 + r |W - present|^2; c is 0 unless `centred`.

        `present`: float64 (groups, outputs, inputs). r is a multiple of the mean diagonal of the inputs' covariance, by
        cross-validation over the folds, and more where rounding has left that indefinite.
        """
        self._finish()
        folds = [fold for fold in self._folds if fold.rows]
        strength, error = _cross_validated(self._origin, folds, present, centred)
        central = _moments(self._origin, folds)
        moments = central.about(*central.point(centred))
        matrix, condition = present.astype(np.float64), 1.0
        if np.isfinite(strength):
            for group, scale in enumerate(moments.scale):
                matrix[group], worst = _solve(moments.xx[group], moments.yx[group], present[group], strength * scale)
                condition = max(condition, worst)
        if error is None:
            total = float(moments.yy.sum())
            error = moments.left(matrix) / total if total > 0 else 0.0
        energy = np.maximum(central.energy(matrix), 0)
        fit_mean = np.einsum("goi,gi->go", matrix, central.x)
        wanted = Statistics(central.y.ravel(), np.maximum(central.yy, 0).ravel())
        return Fitted(
            matrix, max(error, 0.0), condition, strength, wanted, Statistics(fit_mean.ravel(), energy.ravel())
        )


def _moments(origin: tuple[np.ndarray, ...], folds: list[_Sums], outputs: np.ndarray | slice = slice(None)) -> Moments:
    """Means and central moments over all rows of `folds`, of some of the outputs."""
    rows = sum(fold.rows for fold in folds)
    x, y, yy = (sum(getattr(fold, name) for fold in folds) / rows for name in ("x", "y", "yy"))
    y, yy = y[:, outputs], yy[:, outputs]
    first, *others = folds
    xx, yx = first.xx.copy(), first.yx[:, outputs].copy()
    for other in others:
        xx += other.xx
        yx += other.yx[:, outputs]
    single, kind = x.astype(xx.dtype), xx.dtype.type
    xx /= kind(rows)
    xx -= single[:, :, None] * single[:, None]
    yx /= kind(rows)
    yx -= (y[:, :, None] * x[:, None]).astype(yx.dtype)
    return Moments(x + origin[0][:, 0], y + origin[1][:, 0, outputs], xx, yx, yy - y**2)


def _cross_validated(
    origin: tuple[np.ndarray, ...], folds: list[_Sums], present: np.ndarray, centred: bool
) -> tuple[float, float | None]:
    """The strength that leaves least on folds that were not fitted, infinite where leaving the weights alone does, and
    the share of the variance that it leaves there; None where there is only one fold."""
    if len(folds) < 2:
        return STRENGTHS[FIRST_TRIED], None
    _, outputs, inputs = present.shape
    some = np.arange(min(outputs, JUDGED_OUTPUTS)) * outputs // min(outputs, JUDGED_OUTPUTS)
    present = present[:, some]
    alone = [_moments(origin, [fold], some) for fold in folds]
    pairs = []
    for index, fold in enumerate(folds if inputs <= JUDGED_ON_EACH_FOLD else folds[:1]):
        others = [other for other in folds if other is not fold]
        fitted = alone[1 - index] if len(folds) == 2 else _moments(origin, others, some)
        point = fitted.point(centred)
        pairs.append((fitted.about(*point), alone[index].about(*point), fold.rows))
    missing = [fitted.missing(present) for fitted, _, _ in pairs]

    def left(strength: float) -> float:
        return sum(
            rows * judged.left(_shifted(fitted, present, step, strength))
            for (fitted, judged, rows), step in zip(pairs, missing, strict=True)
        )

    unchanged = sum(rows * judged.left(present) for _, judged, rows in pairs)
    best, least = min(downhill(left, STRENGTHS, FIRST_TRIED), (np.inf, unchanged), key=itemgetter(1))
    total = sum(rows * float(judged.yy.sum()) for _, judged, rows in pairs)
    return best, least / total if total > 0 else 0.0


def downhill(error: Callable[[float], float], strengths: Sequence[float], first: int) -> tuple[float, float]:
    """The strength that is reached from the one numbered `first` by steps to neighbours of less error, and its error;
    where the error has one valley, its floor."""
    error = cache(error)
    at = first
    step = 1 if error(strengths[at + 1]) < error(strengths[at]) else -1
    while 0 <= at + step < len(strengths) and error(strengths[at + step]) < error(strengths[at]):
        at += step
    return strengths[at], error(strengths[at])


def _shifted(moments: Moments, present: np.ndarray, missing: np.ndarray, strength: float) -> np.ndarray:
    """`present`, of which outputs are `missing`, and the step that ridge regression takes from there."""
    ridges = (strength * moments.scale).astype(moments.xx.dtype)
    with suppress(np.linalg.LinAlgError):
        if len(ridges) == 1:
            return present + ridge_solution(moments.xx[0], ridges[0], missing[0].T).T
        system = moments.xx.copy()
        np.einsum("gii->gi", system)[:] += ridges[:, None]
        return present + np.swapaxes(np.linalg.solve(system, np.swapaxes(missing, 1, 2)), 1, 2)
    return present


def ridge_solution(gram: np.ndarray, ridge: float, target: np.ndarray) -> np.ndarray:
    """X with (gram + ridge I) X = target, (inputs, outputs), in their precision. Raises scipy's LinAlgError where the
    system is not positive definite."""
    factor = linalg.cho_factor(_strengthened(gram, ridge).T, lower=True, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, target, check_finite=False)


def _strengthened(gram: np.ndarray, ridge: float) -> np.ndarray:
    system = gram.copy()
    np.einsum("ii->i", system)[:] += ridge
    return system


def _solve(gram: np.ndarray, target: np.ndarray, present: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """X with X (gram + r I) = target + r present, float64, and the condition number of that system."""
    for strength in (ridge, 100 * ridge):
        with suppress(linalg.LinAlgError):
            return _factorised(gram, strength, target + strength * present)
    dominant = ridge + float(np.abs(gram).sum(axis=0).max())
    return _factorised(gram, dominant, target + dominant * present)


def _factorised(gram: np.ndarray, ridge: float, target: np.ndarray) -> tuple[np.ndarray, float]:
    system = _strengthened(gram, ridge)
    norm = linalg.get_lapack_funcs("lange", (system,))("1", system.T)
    factor = linalg.cholesky(system.T, lower=True, overwrite_a=True, check_finite=False)
    estimate = linalg.get_lapack_funcs("pocon", (factor,))
    solved = linalg.cho_solve((factor, True), target.T.astype(factor.dtype), check_finite=False)
    inverse_condition = float(estimate(factor, norm, uplo="L")[0])
    return solved.T.astype(np.float64), 1 / max(inverse_condition, np.finfo(np.float64).eps)
