"""A plan as a record and a file: what every group is worth, what budgets would cost, and who is to lose how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..calibration.samples_used import SamplesUsed
from ..channels.groups import Analysis
from ..errors import UsageError, article
from ..options import Options
from ..selection.plan import Choice, Plan, emptied
from .json_form import from_json, to_json
from .planned import FrontierPoint, Planned, PlannedGroup
from .records import FileReport, Versions

EXPECTED = "a plan that `lbyl-onnx plan --out` wrote for this model"


@dataclass(frozen=True, repr=False)
class PlanReport:
    """What `plan` found. `groups`: in the model's order; `frontier`: from light budgets to heavy ones; `samples`: those
    of the user's own that it rests on."""

    versions: Versions
    options: Options
    input: FileReport
    groups: tuple[PlannedGroup, ...]
    frontier: tuple[FrontierPoint, ...]
    calibration: str | None = None
    samples: SamplesUsed = field(default_factory=SamplesUsed)

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


def carried_out(report: PlanReport) -> Planned:
    """What a plan that was carried out had expected."""
    expected = sum(float(group.divergence(group.removed)) for group in report.groups if group.removed)
    return Planned(report.groups, report.frontier, expected)


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
    tensor = emptied(analysis, kept)
    if tensor is not None:
        raise UsageError(
            f"does not fit {analysis.model.name}: it leaves no channel of tensor {tensor!r}; let fewer units go", "plan"
        )
    choices = [
        Choice(group, ~kept[group.classes], reason, "plan" if (~kept[group.classes]).any() else None)
        for group, reason in zip(analysis.groups, reasons, strict=True)
    ]
    return Plan(tuple(choices), kept)
