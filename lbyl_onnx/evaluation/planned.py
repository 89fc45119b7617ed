"""What was known before anything was cut, as records: what every group is worth, and what budgets would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..selection.allocation import Limit, OutOfReach
from ..selection.plan import Plan
from ..selection.planner import Planner
from ..selection.sensitivity import Curve

SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4)
"""Multiply-accumulates that stay, of the frontier's budgets."""


@dataclass(frozen=True)
class PlannedGroup:
    """One group. `producers`: node names; `macs`: of its producers and consumers; `removed`: how many units are to go,
    which may be changed by hand, the first ones of `order`; `curve`: numbers of units and what the outputs are expected
    to move by without them (`selection.sensitivity.Curve`); `reason`: why none may go, None where they may."""

    name: str
    producers: tuple[str, ...]
    units: int
    macs: int
    removed: int
    order: tuple[int, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    reason: str | None = None

    def divergence(self, removed: np.ndarray | int) -> np.ndarray:
        """What the outputs are expected to move by without so many units, float64 of their shape; infinite beyond the
        curve, or where there is none."""
        if not self.curve:
            return np.where(np.asarray(removed) > 0, np.inf, 0.0)
        return Curve(*(np.array(column) for column in zip(*self.curve, strict=True))).at(np.asarray(removed))


@dataclass(frozen=True)
class FrontierPoint:
    """What a budget would cost. `share`: of the multiply-accumulates that stay; `predicted`: how far the outputs are
    expected to move, the groups' own shares added up; `measured`: how far they did by a plan in one round
    (`evaluation.rounds`), None where that was not tried."""

    share: float
    macs: int
    parameters: int
    predicted: float
    measured: float | None = None


@dataclass(frozen=True)
class Planned:
    """The plan that was carried out. `groups`: in the model's order; `frontier`: from light budgets to heavy ones;
    `divergence`: how far the outputs are expected to move (`Validation.divergence`: how far they did), infinite where
    the plan goes beyond what was measured; `latency_before_ms`, `latency_after_ms`: expected of both models, None where
    no latency was asked for."""

    groups: tuple[PlannedGroup, ...]
    frontier: tuple[FrontierPoint, ...]
    divergence: float
    latency_before_ms: float | None = None
    latency_after_ms: float | None = None


def planned(planner: Planner, plan: Plan) -> Planned | None:
    """The record of a planner's plan; None where all groups lose the same share. Nothing is run."""
    if not planner.known.curves:
        return None
    counts = np.array([int(choice.removed.sum()) for choice in plan.choices])
    latencies = planner.predicted_latencies(counts) or (None, None)
    return Planned(planned_groups(planner, plan), frontier(planner), planner.divergence(counts), *latencies)


def planned_groups(planner: Planner, plan: Plan) -> tuple[PlannedGroup, ...]:
    """One record for each group, with the order in which a planner lets its units go."""
    found, known = [], planner.known
    for number, choice in enumerate(plan.choices):
        group, ranked, curve = choice.group, known.ranked.get(number), known.curves.get(number)
        order: list[int] = []
        if ranked is not None:
            some = int(np.isfinite(ranked.ranking.importance[group.free]).sum())
            order = ranked.ranking.order(group.free)[:some].tolist()
        points = zip(curve.removed.tolist(), curve.divergence.tolist(), strict=True) if curve else ()
        found.append(
            PlannedGroup(
                name=group.name,
                producers=tuple(axis.name for axis in group.producers),
                units=group.units,
                macs=group.macs,
                removed=int(choice.removed.sum()),
                order=tuple(order),
                curve=tuple(points),
                reason=choice.reason,
            )
        )
    return tuple(found)


def frontier(planner: Planner) -> tuple[FrontierPoint, ...]:
    """What the budgets in SHARES would cost, as far as they are within reach of what has been measured already."""
    return tuple(point for point, _ in frontier_points(planner, planner.within_known))


def frontier_points(
    planner: Planner, spent: Callable[[list[Limit]], np.ndarray]
) -> Iterator[tuple[FrontierPoint, np.ndarray]]:
    """The points of the budgets in SHARES, from light to heavy ones as far as they are within reach, with the units
    that each group loses, int64 (groups,), by `spent`: one of the planner's ways to keep within limits."""
    whole = float(planner.costs.macs(np.zeros(len(planner.analysis.groups))))
    for share in SHARES:
        try:
            counts = spent([Limit("macs", planner.costs.macs, share * whole)])
        except OutOfReach:
            return
        left = int(planner.costs.macs(counts)), int(planner.costs.parameters(counts))
        yield FrontierPoint(share, *left, planner.divergence(counts)), counts
