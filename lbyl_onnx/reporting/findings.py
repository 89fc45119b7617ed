"""What a record says, as rows and sentences for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..calibration.photographs import FITTED, HELD_OUT, available, credited
from ..calibration.samples import is_made_up
from ..evaluation.records import GroupReport, Report, Validation
from ..evaluation.tables import change, compact, removable
from ..evaluation.verdict import DAMAGED, INTACT, RUINED, WORN

MEANINGS = {
    INTACT: "The result can stand in for the original.",
    WORN: "The result works, but noticeably worse than the original: try it on samples of your own first.",
    DAMAGED: "The result has lost too much to be used as it is.",
    RUINED: "The result no longer does its job.",
}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """One line of the table of both models; `note`: how sure the numbers are."""

    name: str
    before: str
    after: str
    change: str = ""
    note: str = ""


def both_models(report: Report) -> list[Row]:
    """Size, work, time and quality, before and after."""
    costs = (
        ("bytes on disk", report.input.bytes, report.output.bytes),
        ("parameters", report.input.parameters, report.output.parameters),
        ("multiply-accumulates", report.input.macs, report.output.macs),
    )
    rows = [Row(name, f"{before:,}", f"{after:,}", change(before, after)) for name, before, after in costs]
    return rows + (list(_measured(report.validation)) if report.validation is not None else [])


def _measured(validation: Validation) -> Iterator[Row]:
    before, after = validation.latency_before_ms, validation.latency_after_ms
    note = f"medians of single runs in turns, batch {validation.latency_batch}, {validation.provider}"
    yield Row("latency", f"{before:,.4g} ms", f"{after:,.4g} ms", change(before, after), note)
    if validation.accuracy_before is not None and validation.accuracy_after is not None:
        before, after = validation.accuracy_before, validation.accuracy_after
        note = f"before {_interval(before, validation.samples)}, after {_interval(after, validation.samples)}"
        points = f"{100 * (after - before):+.1f} points"
        yield Row("accuracy", f"{100 * before:.1f} %", f"{100 * after:.1f} %", points, note)
    for output in validation.outputs:
        name = f" of {output.name}" if len(validation.outputs) > 1 else ""
        if output.classes is not None:
            classes = output.classes
            note = f"{_interval(classes.agreement, validation.samples)}, {validation.samples} samples"
            yield Row(f"answers{name} that are the original's", "100 %", f"{100 * classes.agreement:.1f} %", "", note)
            low, high = (100 * end for end in classes.expected_loss_interval)
            loss = f"{100 * classes.expected_loss:.1f} points"
            yield Row(f"accuracy expected to be lost{name}", "", loss, "", f"95 %: {low:.1f} to {high:.1f} points")
        if output.positions is not None:
            kept = f"{100 * output.positions.agreement:.1f} %"
            yield Row(f"answers at positions{name} that are the original's", "100 %", kept, "", "")
        share = f"{100 * output.error_share:.3g} % of the energy is error"
        if output.variation_db is not None:
            share += f"; {output.variation_db:.1f} dB of what tells samples apart"
        yield Row(f"signal over error{name}", "", f"{output.sqnr_db:.1f} dB", "", share)


def _interval(share: float, samples: int) -> str:
    """The 95 % interval of a share of samples by Wilson's score."""
    from scipy.stats import binomtest  # slow to import

    found = binomtest(round(share * samples), samples).proportion_ci(CONFIDENCE, method="wilson")
    return f"95 %: {100 * found.low:.1f} to {100 * found.high:.1f} %"


@dataclass(frozen=True)
class GroupRow:
    """One line of the table of groups."""

    name: str
    before: int
    after: int
    macs: str
    expected: str
    error: str
    note: str


def group_rows(report: Report) -> list[GroupRow]:
    """All groups, in the model's order."""
    expected = {group.name: group for group in report.planned.groups} if report.planned is not None else {}
    found = []
    for group in report.groups:
        plan, gone = expected.get(group.name), group.units_before - group.units_after
        cost = 0.0 if plan is None or not gone else float(plan.divergence(plan.removed))
        moved = "not measured" if cost == float("inf") else f"{cost:.3g}" if cost else ""
        error = "" if group.errors.ware is None else f"{group.errors.ware:.3g}"
        row = (group.units_before, group.units_after, compact(group.macs), moved, error)
        found.append(GroupRow(group.name, *row, _note(group, gone)))
    return found


def _note(group: GroupReport, gone: int) -> str:
    if group.frozen_reason is not None:
        return removable(group)
    if not gone:
        return "left whole by the plan"
    return group.outcome.note or (f"restored by {group.outcome.restored}" if group.outcome.restored else "not restored")


def photograph_credits(report: Report) -> dict[str, list[str]]:
    """What the photographs show that a run was measured or judged on, by licence; none where it used no photographs."""
    made_up = is_made_up(report.options.samples.calibration)
    fitted = made_up and " photographs" in (report.calibration or "")
    validation = report.validation
    judged = validation is not None and validation.data.startswith("crops of ")
    pictures = ((*FITTED[0], *FITTED[1]) if fitted else ()) + (HELD_OUT if judged else ())
    return credited(available(pictures))
