"""As small as it gets within a loss of accuracy: how much a plan loses, and the search for the least that does not lose
more.

Where there are no labels, the loss is what is expected on samples that nothing was fitted to: of the user's own samples
trial results are restored from one fold and judged on the other, for all folds; where samples are made up, they are
judged on crops of other pictures, which the comparison at the end does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..budgets import DROP, Budget
from ..calibration.samples import Calibration
from ..errors import NothingToRemove, ValidationFailed
from ..model.model import Model
from ..selection.allocation import Limit, OutOfReach
from ..selection.plan import Plan
from ..selection.planner import Planner
from .judging import Judging
from .trials import Judge, Restore, Trial, folds_as_trials

FIRST_SHARE = 0.08
"""Share of the multiply-accumulates that is taken away first."""
LEAST_SHARE = 0.005
PRECISION = 0.15
"""Where the search ends: a share of the share that is too much."""


def judge_of(
    planner: Planner, original: Model, restore: Restore, calibration: Calibration | None, judging: Judging
) -> Judge | None:
    """The judge of plans where a loss of accuracy is a target; None where it is not."""
    if not any(target.name == DROP for target in planner.options.targets):
        return None
    if judging.evaluation is None and calibration is not None and not calibration.synthetic:
        trials = folds_as_trials(calibration)
    else:
        trials = [Trial(calibration, judging.deciding())]
    return Judge(original, restore, trials, planner.runtime)


def within_drop(planner: Planner, targets: Sequence[Budget], judge: Judge) -> Plan:
    """The plan of least multiply-accumulates that meets all `targets`, a loss of accuracy among them.

    Raises NothingToRemove where even the smallest one loses more.
    """
    points = min(target.value for target in targets if target.name == DROP)
    whole = float(planner.costs.macs(np.zeros(len(planner.analysis.groups))))
    others = planner.limits(targets)
    if others:
        planner.plan(targets)
    found: Plan | None = None
    nearest = float("inf")

    def holds(share: float) -> bool:
        nonlocal found, nearest
        try:
            counts = planner.counts([*others, Limit("macs", planner.costs.macs, (1 - share) * whole)])
        except OutOfReach:
            return False
        plan = planner.plan_of(counts)
        try:
            loss = judge.loss(plan) if counts.any() else 0.0
        except ValidationFailed:  # not finite, or does not run
            loss = float("inf")
        nearest = min(nearest, loss)
        if loss <= points and counts.any():
            found = plan
        return loss <= points

    share, low, high = FIRST_SHARE, 0.0, 1.0
    while high - low > PRECISION * high and share >= LEAST_SHARE:
        low, high = (share, high) if holds(share) else (low, share)
        share = min(2 * low, (low + high) / 2) if low else high / 2
    if found is None:
        if not math.isfinite(nearest):
            raise NothingToRemove(
                f"{planner.analysis.model.name}: no group has enough units to lose some; try --round-to 1"
            )
        allowed = math.ceil(10 * nearest) / 10
        raise NothingToRemove(
            f"{planner.analysis.model.name}: no unit can go within {points:g}% of accuracy; the nearest is "
            f"expected to lose up to {allowed:g} (--target drop={allowed:g}% allows that; more samples narrow it down)"
        )
    return found
