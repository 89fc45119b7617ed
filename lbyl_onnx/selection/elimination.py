"""Backward elimination: remove the channel whose loss can be made up for best, then the next one.

With A = E[a a^T] of a consumer's input channels (mean removed) and its weights V, taking channel j away and refitting
the others costs |V_j|^2 / [A^-1]_jj (optimal brain surgeon: Hassibi and Stork 1992). After each step A^-1 and the
energy V V^T of the refitted weights are downdated, so one run ranks all channels for every ratio at once.

What this says of the samples that it was computed from is too good to be true. So samples come in folds, and the error
that is predicted is the one that a fit to the other folds leaves on each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg

from ..calibration.ridge_regression import downhill, ridge_solution
from .consumer_moments import ConsumerMoments, Measuring
from .criteria import Ranking, RankingTask, Reading, Trial, criterion

SINGLE_PRECISION_UNITS = 256
STEPS = 64
"""Elimination proceeds in about this many steps; groups of at most STEPS units lose one a step."""


class Guard(NamedTuple):
    """What is added to A's diagonal before its order of elimination counts, relative to its mean: `ridge` to all of it,
    and to quiet channels as much as lifts them to `quiet`: they may be loud on what the samples do not show."""

    ridge: float
    quiet: float


TRUSTING, GIVEN, MADE_UP = Guard(1e-3, 0.0), Guard(0.1, 0.0), Guard(0.2, 0.5)
CLEARLY = 0.9
"""The share of another order's error on a fold from which on an order is clearly better: nearer ones are ties."""
FIT_RIDGES = (1e-2, 1e-1, 1.0, 10.0)
"""Of these, the fits that errors are predicted for have the best."""
FIRST_TRIED = 1
"""The one of them that the search for it begins with."""
PREDICTED = 2
"""For so many numbers of removed units is the error predicted, for others by interpolation."""


@dataclass(frozen=True)
class Elimination:
    """`order`: int64 (removed units,), units in the order of their removal. `error`: float64 of the same shape,
    what is expected to be lost once a unit is gone, relative to the variance of the consumers' outputs."""

    order: np.ndarray
    error: np.ndarray

    def ranking(self, units: int, trial: Trial | None = None) -> Ranking:
        """The same for all of `units` units: those that are not in the order are infinitely important."""
        importance = np.full(units, np.inf)
        importance[self.order] = np.arange(len(self.order))
        return Ranking(importance, self.error, trial)


def eliminate(moments: list[ConsumerMoments], free: np.ndarray, count: int, guard: Guard = MADE_UP) -> Elimination:
    """The first `count` units in `free` (bool, (units,)) to go, by backward elimination over all consumers together.

    `guard`: for the samples at hand; TRUSTING where every row is a sample and that loses less.
    """
    count = min(count, int(free.sum()))
    everything = [each.covariance for each in moments]
    removed = _order(everything, moments, free, count, _guard(moments, free, count, guard))
    return Elimination(removed, predicted_errors(moments, removed))


def tried(moments: list[ConsumerMoments], free: np.ndarray, count: int, guard: Guard) -> np.ndarray:
    """The same order, int64, from the first fold alone."""
    first = moments[0].folds[:1]
    return _order([each.covariance_of(first) for each in moments], moments, free, min(count, int(free.sum())), guard)


def _guard(moments: list[ConsumerMoments], free: np.ndarray, count: int, wary: Guard) -> Guard:
    """`wary`, unless every row is a sample: then that only where it loses clearly less than TRUSTING on the fold that
    chose nothing."""
    folds = moments[0].folds
    if len(folds) < 2 or not all(each.rows_are_samples for each in moments):
        return wary
    lost = dict.fromkeys((TRUSTING, wary), 0.0)
    for guard in lost:
        for fold in folds:
            others = folds[folds != fold]
            removed = _order([each.covariance_of(others) for each in moments], moments, free, count, guard)
            lost[guard] += sum(_left(each, removed, folds[folds == fold]) for each in moments)
    return wary if lost[wary] < CLEARLY * lost[TRUSTING] else TRUSTING


def _order(
    covariances: list[np.ndarray], moments: list[ConsumerMoments], free: np.ndarray, count: int, guard: Guard
) -> np.ndarray:
    """The first `count` units to go, int64, by what is lost after the others have been refitted."""
    units = len(free)
    dtype = _precision(units)
    inverses = [_inverse(covariance, guard).astype(dtype) for covariance in covariances]
    energies = [each.energy.astype(dtype) for each in moments]
    alive = free.copy()
    order: list[int] = []
    at_once = max(1, units // STEPS)
    while len(order) < count:
        cost = sum(np.diag(energy) / np.diag(inverse) for energy, inverse in zip(energies, inverses, strict=True))
        chosen = np.argsort(np.where(alive, cost, np.inf), kind="stable")[: min(at_once, count - len(order))]
        for inverse, energy in zip(inverses, energies, strict=True):
            _downdate(inverse, energy, chosen)
        order += chosen.tolist()
        alive[chosen] = False
    return np.array(order, np.int64)


def _precision(units: int) -> type[np.floating]:
    """Single for large groups, which the ridge affords."""
    return np.float32 if units > SINGLE_PRECISION_UNITS else np.float64


def _inverse(covariance: np.ndarray, guard: Guard) -> np.ndarray:
    mean = np.trace(covariance) / len(covariance) or 1.0
    quiet = np.maximum(guard.quiet * mean - np.diag(covariance), 0)
    return linalg.inv(covariance + np.diag(guard.ridge * mean + quiet))


def predicted_errors(moments: list[ConsumerMoments], order: np.ndarray) -> np.ndarray:
    """What is expected to be lost once each of the units in `order` is gone, float64 of its shape, relative to the
    variance of the consumers' outputs: of fits to all folds but one, on that one (to the only fold, where there is but
    one)."""
    counts = np.unique(np.linspace(0, len(order), PREDICTED + 1).astype(np.int64))[1:]
    if not counts.size:
        return np.zeros(0)
    total = sum(float((each.covariance * each.energy).sum()) for each in moments)
    lost = [sum(_left(each, order[:count]) for each in moments) for count in counts]
    shares = np.array(lost) / total if total > 0 else np.zeros(len(lost))
    return np.interp(np.arange(1, len(order) + 1), [0, *counts], [0, *np.maximum(shares, 0)])


def _left(moments: ConsumerMoments, removed: np.ndarray, folds: np.ndarray | None = None) -> float:
    """The mean square error of a consumer's outputs on `folds` (None: all) once it reads the other units alone, fitted
    on the other folds."""
    known = moments.folds
    folds = known if folds is None else folds
    precision = _precision(len(moments.energy))
    energy = moments.energy[np.ix_(removed, removed)]
    kept = np.setdiff1d(np.arange(len(moments.energy)), removed)
    blocks = (np.ix_(kept, kept), np.ix_(kept, removed), np.ix_(removed, removed))
    pairs = []
    for fold in folds:
        others = known[known != fold] if len(known) > 1 else known
        fitted, judged = (moments.covariance_of(some).astype(precision) for some in (others, known[known == fold]))
        scale = np.trace(fitted) / len(fitted) or 1.0
        pairs.append((scale, fitted[blocks[0]], fitted[blocks[1]], [judged[block] for block in blocks]))

    def left(ridge: float) -> float:
        total = 0.0
        for scale, system, target, (inner, shared, own) in pairs:
            transfer = ridge_solution(system, ridge * scale, target)
            total += float(((own + transfer.T @ (inner @ transfer - 2 * shared)) * energy).sum())
        return total

    return downhill(left, FIT_RIDGES, FIRST_TRIED)[1] / len(folds)


def _downdate(inverse: np.ndarray, energy: np.ndarray, units: np.ndarray) -> None:
    """Take `units` out of A^-1 and of V V^T after refitting the others, in place."""
    block = linalg.pinvh(inverse[np.ix_(units, units)])
    transfer = inverse[:, units] @ block
    shared = energy[:, units] - 0.5 * transfer @ energy[np.ix_(units, units)]
    _subtract_product(energy, np.hstack([transfer, shared]), np.hstack([shared, transfer]))
    _subtract_product(inverse, transfer, inverse[:, units])
    for matrix in (energy, inverse):
        matrix[units], matrix[:, units] = 0, 0
    inverse[units, units] = 1


def _subtract_product(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """matrix -= left @ right.T, without a temporary of the matrix's size."""
    gemm = linalg.get_blas_funcs("gemm", (matrix,))
    gemm(-1, right, left, 1, matrix.T, trans_b=True, overwrite_c=True)


@criterion("obs", needs_samples=True, fallback="l2")
def rank_by_elimination(task: RankingTask) -> dict[int, Ranking]:
    """The order of elimination of every group.

    One run; a group is ranked, and its moments forgotten, as soon as its last consumer has been measured. Groups
    without a consumer whose input can be measured are left out.
    """
    assert task.calibration is not None
    groups = task.groups
    guard = MADE_UP if task.calibration.synthetic else GIVEN
    measuring = Measuring(task, task.calibration)
    visits = [(consumer, number) for number, group in groups.items() for consumer in group.consumers]
    visits.sort(key=lambda visit: measuring.when(visit[0]))
    last = {number: index for index, (_, number) in enumerate(visits)}
    found: dict[int, list[ConsumerMoments]] = {number: [] for number in groups}
    readings: dict[int, list[Reading]] = {number: [] for number in groups}
    rankings = {}
    try:
        for index, (consumer, number) in enumerate(visits):
            task.tell(consumer.name, index / len(visits))
            group = groups[number]
            moments = measuring.moments(consumer, group.units)
            if moments is not None:
                found[number].append(moments)
                if task.trying and (reading := measuring.reading(consumer, moments)) is not None:
                    readings[number].append(reading)
            if last[number] == index and (measured := found.pop(number)):
                count, trial = task.counts[number], None
                if task.trying:
                    order = tried(measured, group.free, count, guard)
                    trial = Trial(order, tuple(readings.pop(number)))
                rankings[number] = eliminate(measured, group.free, count, guard).ranking(group.units, trial)
    finally:
        measuring.run.close()
    return rankings
