"""A plan as a record and a file: what every group is worth, what budgets would cost, and who is to lose how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..channels.groups import Analysis
from ..errors import UsageError, article
from ..options import Options
from ..selection.plan import Choice, Plan
from ..selection.planner import Planner
from .records import FileReport, Versions, from_json, to_json

EXPECTED = "a plan that `lbyl-onnx plan --out` wrote for this model"


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


@dataclass(frozen=True)
class FrontierPoint:
    """What a budget would cost. `share`: of the multiply-accumulates that stay; `predicted`: how far the outputs are
    expected to move, the groups' own shares added up; `measured`: how far they did, None where that was not tried."""

    share: float
    macs: int
    parameters: int
    predicted: float
    measured: float | None = None


@dataclass(frozen=True, repr=False)
class PlanReport:
    """What `plan` found. `groups`: in the model's order; `frontier`: from light budgets to heavy ones."""

    versions: Versions
    options: Options
    input: FileReport
    groups: tuple[PlannedGroup, ...]
    frontier: tuple[FrontierPoint, ...]
    calibration: str | None = None

    def __repr__(self) -> str:
        removed = sum(group.removed for group in self.groups)
        return f"<PlanReport: {removed:,} of {sum(group.units for group in self.groups):,} units are to go>"

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> PlanReport:
        """The record that `to_json` wrote. Raises ValueError where the text is none."""
        return from_json(cls, text)


def planned_groups(planner: Planner, plan: Plan) -> tuple[PlannedGroup, ...]:
    """One record for each group, with the order in which a planner lets its units go."""
    found = []
    for number, choice in enumerate(plan.choices):
        group, ranked, curve = choice.group, planner.ranked.get(number), planner.curves.get(number)
        order: list[int] = []
        if ranked is not None:
            scores = np.where(group.free, ranked.ranking.importance, np.inf)
            order = np.argsort(scores, kind="stable")[: int(np.isfinite(scores).sum())].tolist()
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


def read_plan(source: PlanReport | str | Path) -> PlanReport:
    """The record, or what a file holds. Raises UsageError where it is no plan."""
    if isinstance(source, PlanReport):
        return source
    if not isinstance(source, str | Path):
        raise UsageError(f"is {article(type(source).__name__)}; expected {EXPECTED}, or what plan returns", "plan")
    try:
        return PlanReport.from_json(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}; expected {EXPECTED}", "plan") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is no plan ({str(error).splitlines()[0]}); expected {EXPECTED}", "plan") from error


def executed(report: PlanReport, analysis: Analysis, reasons: list[str | None]) -> Plan:
    """The plan of a record for the groups of a model. Raises UsageError where it does not fit them."""
    names = [group.name for group in analysis.groups]
    if names != [group.name for group in report.groups]:
        other = next((g.name for g in report.groups if g.name not in names), f"{len(report.groups)} groups")
        raise UsageError(
            f"does not fit {analysis.model.name}: it has {other!r}, the model {len(names)} groups; expected {EXPECTED}",
            "plan",
        )
    kept = np.ones(analysis.classes.count, bool)
    for group, planned, reason in zip(analysis.groups, report.groups, reasons, strict=True):
        wrong = None
        if planned.units != group.units:
            wrong = f"has {planned.units} units there and {group.units} in the model"
        elif planned.removed < 0 or planned.removed > min(len(planned.order), group.units - 1):
            wrong = f"is to lose {planned.removed} units; from 0 to {min(len(planned.order), group.units - 1)} may go"
        elif planned.removed and reason is not None:
            wrong = f"cannot lose units: {reason}"
        chosen = np.array(planned.order[: planned.removed], np.int64)
        known = np.isin(chosen, np.flatnonzero(group.free)).all() and len(np.unique(chosen)) == len(chosen)
        if wrong is None and not known:
            wrong = "has units in its order that are no free units of the model, or twice"
        if wrong is not None:
            raise UsageError(f"does not fit {analysis.model.name}: group {group.name!r} {wrong}", "plan")
        kept[group.classes[chosen]] = False
    choices = [
        Choice(group, ~kept[group.classes], reason, "plan" if (~kept[group.classes]).any() else None)
        for group, reason in zip(analysis.groups, reasons, strict=True)
    ]
    return Plan(tuple(choices), kept)
