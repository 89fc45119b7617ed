"""Plans in two rounds: half of what the budgets take is cut and restored, and the rest is planned from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..budgets import Budget
from ..channels.groups import Analysis
from ..errors import MeasurementFailed, ValidationFailed
from ..selection.allocation import Limit, OutOfReach
from ..selection.plan import Plan
from ..selection.planner import Planner

FIRST_ROUND = 0.5
"""Share of what the budgets take that goes in the first round."""

Result = Callable[[Plan], Analysis]
"""The channel groups of what a plan makes of the model, restored."""


def in_two_rounds(planner: Planner, targets: Sequence[Budget], result: Result) -> Plan:
    """A plan within the budgets, for which sensitivities are measured again on the result of a first round. Raises
    NothingToRemove where a budget is out of reach."""
    if planner.options.by_sensitivity and not planner.looked_again:
        _look_again(planner, planner.limits(targets), result)
    return planner.plan(targets)


def _look_again(planner: Planner, limits: list[Limit], result: Result) -> None:
    """Measure again on the result of a first round, where there is one that can be measured."""
    none = np.zeros(len(planner.analysis.groups), np.int64)
    try:
        gone = planner.counts([_first_round(limit, float(limit.cost(none))) for limit in limits])
        if gone.any():
            planner.look_again(result(planner.plan_of(gone)), gone)
    except (OutOfReach, MeasurementFailed, ValidationFailed):
        return


def _first_round(limit: Limit, whole: float) -> Limit:
    return replace(limit, most=whole + FIRST_ROUND * (limit.most - whole))
