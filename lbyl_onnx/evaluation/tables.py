"""What the command line prints: reports as tables that fit the width they are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import JustifyMethod
from rich.table import Table

from ..errors import counted
from ..restoration.methods import RESTORATIONS
from .plan_file import PlanReport
from .planned import PlannedGroup
from .records import GroupReport, Inspection, Report, Validation

Row = tuple[str, ...]

BELOW = " -> "
GAP = 2
NAME_MINIMUM = 16
BARS = "▁▂▃▄▅▆▇█"
FAINTEST, LOUDEST = 1e-3, 3.0
"""Divergences that the lowest and the highest bar of a curve stand for."""
REASON_SHARE = 4
"""The column of reasons has at least this fraction of the width."""


def groups_table(inspection: Inspection, width: int) -> Table:
    """One row for each channel group.

    Consumers have a column of their own where all names fit side by side in `width` characters, else they
    stand below their producers, shortened in the middle if they must; a paragraph for each where even that is too wide.
    """
    header: Row = ("Producers", "Consumers", "Units", "Params", "MACs", "Removable")
    rows: list[Row] = [
        (names(group.producers), names(group.consumers), *_counts(group), removable(group))
        for group in inspection.groups
    ]
    producers, consumers, *counts, reason = _widths(header, rows)
    room = width - sum(counts) - min(reason, width // REASON_SHARE) - GAP * (len(header) - 2)
    if room < NAME_MINIMUM:
        return _paragraphs(header, rows, width)
    if producers + GAP + consumers > room:
        header = (f"Producers\n{BELOW}consumers", *header[2:])
        rows = [(_stacked(made, used, room), *others) for made, used, *others in rows]
    return _table(header, rows, numbers=slice(-4, -1), wrapped=header[-1])


def plan_table(report: PlanReport, width: int) -> Table:
    """One row for each group that may lose units: its size, what its units are worth, and how many are to go."""
    header: Row = ("Group", "Units", "MACs", "Sensitivity", "To go")
    rows: list[Row] = [
        (names(group.producers), str(group.units), compact(group.macs), sparkline(group), str(group.removed))
        for group in report.groups
        if group.reason is None
    ]
    return named_table(header, rows, width)


def frontier_table(report: PlanReport, width: int) -> Table:
    """One row for each budget: what stays, and how far the outputs are expected to move, and did."""
    header: Row = ("Budget", "MACs", "Params", "Predicted divergence", "Measured")
    rows: list[Row] = [
        (
            f"macs={point.share:g}",
            f"{point.macs:,}",
            f"{point.parameters:,}",
            f"{point.predicted:.3g}",
            "" if point.measured is None else f"{point.measured:.3g}",
        )
        for point in report.frontier
    ]
    return named_table(header, rows, width)


def sparkline(group: PlannedGroup) -> str:
    """What the outputs lose without 1/8, 2/8, ... 7/8 of a group's units, from FAINTEST to LOUDEST in equal factors;
    a dot where that was not measured."""
    if not group.curve:
        return ""
    values = group.divergence(np.arange(1, len(BARS)) * group.units / len(BARS))
    reach = np.log(LOUDEST / FAINTEST)
    places = np.clip(np.log(np.maximum(values, FAINTEST) / FAINTEST) / reach * len(BARS), 0, len(BARS) - 1)
    return "".join(BARS[int(place)] if np.isfinite(value) else "." for place, value in zip(places, values, strict=True))


def totals(inspection: Inspection) -> str:
    """Two lines: size of the model, and how many groups either scope may cut."""
    free = [group for group in inspection.groups if group.frozen_reason is None]
    chains = sum(not group.coupled for group in free)
    return (
        f"{inspection.input.parameters:,} parameters, {inspection.input.macs:,} MACs\n"
        f"{counted(len(inspection.groups), 'group')}: {chains} removable with --scope chains,"
        f" {len(free)} with --scope all"
    )


def compression_table(report: Report, width: int) -> Table:
    """Sizes, and latency and accuracies where validated, before and after."""
    before, after = report.input, report.output
    rows: list[Row] = [
        (label, f"{old:,}", f"{new:,}", change(old, new))
        for label, old, new in (
            ("parameters", before.parameters, after.parameters),
            ("MACs", before.macs, after.macs),
            ("bytes on disk", before.bytes, after.bytes),
        )
    ]
    return _before_after(rows + (_measured(report.validation) if report.validation else []), width)


def measurement_table(validation: Validation, width: int) -> Table:
    """Latency and accuracies of both models."""
    return _before_after(_measured(validation), width)


def outputs_table(validation: Validation, width: int) -> Table:
    """One row for each output of the two models: how far they agree."""
    header: Row = ("Output", "Shape", "Max error", "Mean error", "SQNR dB", "Cosine", "Top-1 same")
    rows: list[Row] = [
        (
            printable(output.name),
            "x".join(map(str, output.shape)) or "scalar",
            f"{output.max_error:.3g}",
            f"{output.mean_error:.3g}",
            f"{output.sqnr_db:.1f}",
            f"{output.cosine:.4f}",
            "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}",
        )
        for output in validation.outputs
    ]
    return named_table(header, rows, width)


def cut_summary(report: Report) -> str:
    """Two lines: how many units and groups went; how many were restored, and why the others were not."""
    cut = [group for group in report.groups if group.units_after < group.units_before]
    removed = sum(group.units_before - group.units_after for group in cut)
    total = sum(group.units_before for group in report.groups)
    summary = f"removed {removed:,} of {total:,} units in {len(cut)} of {counted(len(report.groups), 'group')}"
    method = report.options.prune.restore
    if not RESTORATIONS[method].changes_weights:
        return f"{summary}\nrestored nothing (--restore {method})"
    outcomes = [group.outcome for group in cut]
    restored = sum(outcome.restored is not None for outcome in outcomes)
    used = " and ".join(dict.fromkeys(outcome.restored for outcome in outcomes if outcome.restored)) or method
    notes = [outcome.note for outcome in outcomes if outcome.restored is None and outcome.note]
    why = f"; not the others, mostly because {printable(max(notes, key=notes.count))}" if notes else ""
    return f"{summary}\nrestored {restored} of {counted(len(cut), 'group')} with {used}{why}"


def measured_on(validation: Validation) -> str:
    """One line: what the comparison rests on."""
    return printable(
        f"compared on {counted(validation.samples, 'sample')} ({validation.data}), provider {validation.provider},"
        f" latency at batch {validation.latency_batch}"
    )


def answers_table(validation: Validation, width: int) -> Table | None:
    """One row for each output that holds scores of classes: what the answers lost; None where there is none."""
    header: Row = ("Answers", "Original sure", "Divergence", "Expected loss of accuracy")
    rows: list[Row] = []
    for output in validation.outputs:
        if output.classes is not None:
            low, high = (f"{100 * end:.1f}" for end in output.classes.expected_loss_interval)
            loss = f"{100 * output.classes.expected_loss:.1f} points ({low} to {high})"
            sure, divergence = f"{output.classes.confidence:.1%}", f"{output.classes.divergence:.3g}"
            rows.append((printable(output.name), sure, divergence, loss))
    if not rows:
        return None
    return named_table(header, rows, width)


def bound(report: Report) -> str | None:
    """One line: what cutting alone could cost at most, and what it did; None where that is not known."""
    found = report.bound
    if found is None or found.root_mean_square is None or found.size is None:
        return None
    how = "drawing so many units" if found.random else "removing these units"
    void = "" if found.root_mean_square < found.size else ", which says nothing"
    most = f"{found.root_mean_square:.3g}{void}"
    return f"{how} can move the output (root mean square {found.size:.3g}) by {most}; it moved by {found.measured:.3g}"


def verdict(validation: Validation) -> str | None:
    """One line: whether the result can be used, and why."""
    found = validation.verdict
    return None if found is None else printable(f"verdict: {found.level.upper()}, {found.reason}")


def removable(group: GroupReport) -> str:
    """Whether units of the group can go, and if not, why."""
    if group.frozen_reason is not None:
        return printable(f"no: {group.frozen_reason}")
    return "with --scope all" if group.coupled else "yes"


def names(nodes: Sequence[str]) -> str:
    """The first of some node names and how many more there are; empty for none."""
    first = printable(nodes[0]) if nodes else ""
    return first if len(nodes) < 2 else f"{first} +{len(nodes) - 1}"


def shorten(text: str, width: int) -> str:
    """At most `width` characters of a text, the middle left out; more of the end stays, where names differ.

    >>> shorten("/encoder/layer.0/attention/MatMul", 20)
    '/encod...tion/MatMul'
    """
    if len(text) <= width:
        return text
    head = (width - 3) * 2 // 5
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def printable(text: str) -> str:
    """The text on one line, with "?" for what a terminal would obey rather than show."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def compact(count: int) -> str:
    """A count with three significant digits.

    >>> compact(640), compact(18848), compact(999950)
    ('640', '18.8k', '1.00M')
    """
    if count < 1000:
        return str(count)
    mantissa, exponent = f"{count:.2e}".split("e")
    thousands, tens = divmod(int(exponent), 3)
    return f"{float(mantissa) * 10**tens:.{2 - tens}f}{' kMGTPE'[thousands]}"


def change(before: float, after: float) -> str:
    """Relative change in per cent; empty where there was nothing before."""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def _counts(group: GroupReport) -> tuple[str, str, str]:
    return str(group.units_before), compact(group.parameters), compact(group.macs)


def _measured(validation: Validation) -> list[Row]:
    old, new = validation.latency_before_ms, validation.latency_after_ms
    rows: list[Row] = [("latency", f"{old:,.3f} ms", f"{new:,.3f} ms", change(old, new))]
    if validation.accuracy_before is not None and validation.accuracy_after is not None:
        old, new = 100 * validation.accuracy_before, 100 * validation.accuracy_after
        rows.append(("accuracy", f"{old:.2f} %", f"{new:.2f} %", f"{new - old:+.2f} points"))
    return rows


def _before_after(rows: list[Row], width: int) -> Table:
    return named_table(("", "Before", "After", "Change"), rows, width)


def _stacked(producers: str, consumers: str, room: int) -> str:
    below = f"\n{BELOW}{shorten(consumers, room - len(BELOW))}" if consumers else ""
    return shorten(producers, room) + below


def _widths(header: Row, rows: list[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]


def named_table(header: Row, rows: list[Row], width: int) -> Table:
    """Names in the first column, shortened so that all fits in `width` characters, and numbers; where not even that
    fits, a paragraph for each row, one number to the line."""
    names, *others = _widths(header, rows)
    room = width - sum(others) - GAP * len(others)
    if room >= min(names, NAME_MINIMUM):
        return _table(header, [(shorten(name, max(room, NAME_MINIMUM)), *rest) for name, *rest in rows], slice(1, None))
    return _paragraphs(header, rows, width)


def _paragraphs(header: Row, rows: list[Row], width: int) -> Table:
    """For each row its name, and below it a line for each of the others that is not empty."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    titles = max(map(len, header[1:]))
    for name, *rest in rows:
        table.add_row(shorten(name, width), style="bold")
        for title, value in zip(header[1:], rest, strict=True):
            if value:
                table.add_row(f"  {title:<{titles}}  {value}")
    return table


def _table(header: Row, rows: list[Row], numbers: slice, wrapped: str | None = None) -> Table:
    """Columns in `numbers` are aligned to the right; only the one titled `wrapped` may wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for title in header:
        justify: JustifyMethod = "right" if title in header[numbers] else "left"
        table.add_column(title, justify=justify, no_wrap=title != wrapped)
    for row in rows:
        table.add_row(*row)
    return table
