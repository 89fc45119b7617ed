"""Pictures of the plan: what every group is worth to the outputs, and what budgets would cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.planned import FrontierPoint, Planned, PlannedGroup
from ..evaluation.records import Report
from ..evaluation.tables import compact, printable, shorten
from .figures import COLOURS, Canvas

FAINTEST = 1e-4
"""The least divergence that is drawn."""
MOVED = "how far the outputs move"
POINTS = 14
"""Of a line, beside those that were measured."""
MOST_LABELS, MOST_SENSITIVE = 6, 3
LABEL = 22
"""Characters of a name."""
LINES = 16
"""Of text, from the bottom of the picture to the top."""


def measured_groups(planned: Planned) -> list[PlannedGroup]:
    """Groups that have a curve."""
    return [group for group in planned.groups if group.curve]


def draw_sensitivities(planned: Planned, canvas: Canvas) -> None:
    """One line for each group: how far the outputs move without a share of its units; a point where the plan is."""
    axes, groups = canvas.axes, measured_groups(planned)
    ends = []
    for group in sorted(groups, key=lambda group: group.removed > 0):
        last = group.curve[-1][0]
        known = [*(each for each, _ in group.curve), min(group.removed, last) or last]
        removed = np.union1d(np.geomspace(group.curve[0][0] / 4, last, POINTS), known)
        moved = np.maximum(group.divergence(removed), FAINTEST)
        colour = COLOURS["kept"] if group.removed else COLOURS["muted"]
        (line,) = axes.plot(100 * removed / group.units, moved, color=colour, linewidth=1.3, alpha=0.7)
        canvas.mark(line, curve_in_words(group))
        ends.append((float(moved[-1]), 100 * last / group.units, group))
    for label, colour in (("groups that lose units", COLOURS["kept"]), ("groups left whole", COLOURS["muted"])):
        axes.plot([], [], color=colour, linewidth=1.3, label=label)
    chosen = [group for group in groups if group.removed and np.isfinite(group.divergence(group.removed))]
    at = [max(float(group.divergence(group.removed)), FAINTEST) for group in chosen]
    shares = [100 * group.removed / group.units for group in chosen]
    axes.plot(shares, at, "o", color=COLOURS["gone"], markersize=5, label="what the plan takes", zorder=3)
    axes.set(xlabel="units of the group that go, %", xlim=(0, None))
    canvas.logarithmic(MOVED)
    _label_ends(ends, canvas)
    canvas.legend_above(1 if canvas.narrow else 3)


def _label_ends(ends: Sequence[tuple[float, float, PlannedGroup]], canvas: Canvas) -> None:
    """Names beside the lines where these are few, else beside the most sensitive ones."""
    if canvas.narrow or not ends:
        return
    ends = sorted(ends, key=lambda end: end[0])
    low, high = np.log10(canvas.axes.get_ylim())
    chosen = ends if len(ends) <= MOST_LABELS else ends[-MOST_SENSITIVE:]
    gap, least = (high - low) / LINES, -np.inf
    for value, share, group in chosen:
        least = max(np.log10(value), least + gap)
        name = shorten(printable(group.name), LABEL)
        canvas.axes.annotate(
            name, (share, 10**least), (5, 0), textcoords="offset points", va="center", color=COLOURS["muted"]
        )
    canvas.axes.set_ylim(top=10 ** max(high, least + gap / 2))


def curve_in_words(group: PlannedGroup) -> str:
    """Name and curve of one group."""
    points = ", ".join(f"{moved:.3g} without {removed}" for removed, moved in group.curve)
    taken = f"; the plan takes {group.removed}" if group.removed else "; the plan takes none"
    return f"{printable(group.name)}, {group.units} units: outputs move by {points}{taken}"


def draw_frontier(report: Report, planned: Planned, canvas: Canvas) -> None:
    """Multiply-accumulates that stay against how far the outputs move, as predicted and as measured."""
    axes, whole = canvas.axes, report.input.macs
    points = [point for point in planned.frontier if point.predicted > 0]
    places = [100 * point.macs / whole for point in points]
    axes.plot(places, [point.predicted for point in points], color=COLOURS["kept"], linewidth=1.3)
    for point, place in zip(points, places, strict=True):
        (mark,) = axes.plot(place, point.predicted, "o", color=COLOURS["kept"], markersize=5)
        canvas.mark(mark, point_in_words(point))
    axes.plot([], [], "o-", color=COLOURS["kept"], markersize=5, label="budgets, predicted")
    tried = [(100 * point.macs / whole, point.measured) for point in points if point.measured]
    if tried:
        axes.plot(*zip(*tried, strict=True), "s", color=COLOURS["muted"], markersize=5, label="budgets, measured")
    place = 100 * report.output.macs / whole
    _this_run(canvas, place, planned.divergence, "predicted", "none")
    if report.validation is not None:
        _this_run(canvas, place, report.validation.divergence, "measured", COLOURS["gone"])
    axes.set_xlabel("multiply-accumulates that stay, %")
    canvas.logarithmic(MOVED)
    canvas.legend_above(1 if canvas.narrow else 3)


def _this_run(canvas: Canvas, place: float, moved: float, how: str, face: str) -> None:
    if not 0 < moved < float("inf"):
        return
    (mark,) = canvas.axes.plot(place, moved, "D", color=COLOURS["gone"], markersize=8, label=f"this run, {how}")
    mark.set(markerfacecolor=face, markeredgewidth=1.8, zorder=3)
    canvas.mark(mark, f"this run: {place:.1f} % of the multiply-accumulates stay, outputs move by {moved:.3g} ({how})")


def point_in_words(point: FrontierPoint) -> str:
    """What a budget would cost."""
    measured = "" if point.measured is None else f", {point.measured:.3g} (measured)"
    return (
        f"budget macs={point.share:g}: {compact(point.macs)} multiply-accumulates and {compact(point.parameters)} "
        f"parameters stay, outputs move by {point.predicted:.3g} (predicted){measured}"
    )
