"""Plans that are corrected by what results of theirs do.

What single groups lose does not quite add up: all later layers are fitted too, and errors meet. So a few results are
made, restored from one fold of samples and judged on the other. Each tells how far the outputs move in all, as a sum
over the groups' shares, each times a factor of its own: Bayesian linear regression gives the factors, they weigh the
curves, and the next result is that of the plan which is best by then. The one that moved the outputs least is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import linalg

from ..budgets import Budget
from ..errors import MeasurementFailed, ValidationFailed
from ..selection.plan import Plan
from ..selection.planner import Planner
from ..selection.sensitivity import Curve

RESULTS = 6
"""Results that are made after the first."""
SPREAD = 0.5
"""Standard deviation of the groups' factors about that of all, relative to it."""
NOISE = 0.05
"""Standard deviation of what a result is measured to do, relative to it."""
DRAWS = 20
"""Where the factors bring nothing new, others are drawn so often, up to one standard deviation away."""
LEAST_FACTOR = 0.1
"""Least factor of a group, relative to that of all."""

Moved = Callable[[Plan], float]
"""How far the outputs move by a plan."""


def corrected(planner: Planner, targets: Sequence[Budget], moved: Moved) -> Plan:
    """The plan within `targets` whose result moves the outputs least, of those that are tried; the planner's factors
    are what they taught. Raises NothingToRemove where a budget is out of reach."""
    plan = planner.plan(targets)
    curves, limits = planner.known.curves, planner.limits(targets)
    if plan.removes_nothing or len(curves) < 2:
        return plan
    counts = np.array([int(choice.removed.sum()) for choice in plan.choices])
    least, shares = _measured(moved, plan), _shares(curves, counts)
    if not (0 < least < np.inf and 0 < shares.sum() < np.inf):
        return plan
    factors = _Factors(least / float(shares.sum()), len(curves))
    factors.learn(shares, least)
    tried = {tuple(counts.tolist())}
    rng = np.random.default_rng(planner.options.seed)
    for _ in range(RESULTS):
        for draw in range(DRAWS):
            planner.correct(dict(zip(curves, factors.near(draw / DRAWS, rng), strict=True)))
            counts = planner.counts(limits)
            if tuple(counts.tolist()) not in tried:
                break
        else:
            break
        tried.add(tuple(counts.tolist()))
        other = planner.plan_of(counts)
        amount = _measured(moved, other)
        if amount < np.inf:
            factors.learn(_shares(curves, counts), amount)
        if amount < least:
            plan, least = other, amount
    planner.correct(dict(zip(curves, factors.mean, strict=True)))
    return plan


def _measured(moved: Moved, plan: Plan) -> float:
    """How far a plan moves the outputs, infinite where its result is not finite."""
    try:
        return moved(plan)
    except (MeasurementFailed, ValidationFailed):
        return np.inf


def _shares(curves: Mapping[int, Curve], counts: np.ndarray) -> np.ndarray:
    """How far each group that has a curve moves the outputs by itself, float64 (curves,)."""
    return np.array([float(curve.at(counts[number])) for number, curve in curves.items()])


class _Factors:
    """By how much more than expected each group moves the outputs: normal about `scale`, until results teach better."""

    def __init__(self, scale: float, groups: int) -> None:
        self._least = LEAST_FACTOR * scale
        self._precision = np.eye(groups) / (SPREAD * scale) ** 2
        self._sum = np.full(groups, scale / (SPREAD * scale) ** 2)

    def learn(self, shares: np.ndarray, moved: float) -> None:
        """A result moved the outputs so far, whose groups were expected to by `shares`, float64 (groups,)."""
        row = shares / (NOISE * moved)
        self._precision += np.outer(row, row)
        self._sum += row / NOISE

    @property
    def mean(self) -> np.ndarray:
        """The most likely factors, float64 (groups,), none below a share of `scale`."""
        return np.maximum(linalg.solve(self._precision, self._sum, assume_a="pos"), self._least)

    def near(self, deviations: float, rng: np.random.Generator) -> np.ndarray:
        """Factors drawn so many standard deviations away from these."""
        step = linalg.solve_triangular(linalg.cholesky(self._precision), rng.standard_normal(len(self._sum)))
        return np.maximum(self.mean + deviations * step, self._least)
