"""Pictures of what was gained: what is left of the original, and how long single runs take."""

from __future__ import annotations

from ..evaluation.records import Report, Validation
from ..evaluation.tables import change, compact
from .figures import COLOURS, Canvas

LOW, QUARTER, HALF, UPPER, HIGH = 0.05, 0.25, 0.5, 0.75, 0.95
"""Shares of the runs at which the boxes of latencies are drawn."""
BAR = 0.42
"""Thickness of a bar, of the room that it has."""


def draw_left(report: Report, canvas: Canvas) -> None:
    """A bar for each cost: what is left of the original's, in per cent."""
    axes, old, new = canvas.axes, report.input, report.output
    rows: list[tuple[str, float, float, str]] = [
        (name, before, after, f"{compact(before)} → {compact(after)}")
        for name, before, after in (
            ("bytes", old.bytes, new.bytes),
            ("parameters", old.parameters, new.parameters),
            ("MACs", old.macs, new.macs),
        )
    ]
    if (found := report.validation) is not None:
        times = found.latency_before_ms, found.latency_after_ms
        rows.append(("latency", *times, "{:.3g} → {:.3g} ms".format(*times)))
    most = 100.0
    for place, (name, before, after, numbers) in enumerate(rows):
        share = 100 * after / before if before else 100.0
        most = max(most, share)
        axes.barh(place, 100, BAR, color=COLOURS["grid"])
        (bar,) = axes.barh(place, share, BAR, color=COLOURS["kept"] if share <= 100 else COLOURS["gone"])
        canvas.mark(bar, f"{name}: {numbers}, {change(before, after)}")
        axes.annotate(f"{numbers}  ({change(before, after)})", (0, place - BAR / 2), (0, 2), textcoords="offset points")
    axes.set(xlabel="left of the original, %", xlim=(0, most), ylim=(len(rows) - 0.6, -0.75))
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)


def draw_latencies(report: Report, validation: Validation, canvas: Canvas) -> None:
    """A box for each model over the middle half of its runs, with its median, and whiskers over nine tenths."""
    axes = canvas.axes
    sides = zip(("original", "result"), validation.latency_quantiles_ms, (1, 0), strict=True)
    for name, quantiles, place in sides:
        low, first, middle, third, high = (_at(quantiles, share) for share in (LOW, QUARTER, HALF, UPPER, HIGH))
        colour = COLOURS["muted"] if name == "original" else COLOURS["kept"]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.plot(quantiles, [place - 0.36] * len(quantiles), "|", color=colour, markersize=6, alpha=0.6)
        (box,) = axes.barh(place, third - first, 0.44, first, color=colour)
        axes.plot([middle, middle], [place - 0.22, place + 0.22], color=COLOURS["paper"], linewidth=2)
        canvas.mark(
            box,
            f"{name}: median {middle:.3g} ms; half of the runs took {first:.3g} to {third:.3g} ms, nine in ten "
            f"{low:.3g} to {high:.3g} ms",
        )
    if report.planned is not None and report.planned.latency_after_ms is not None:
        expected = report.planned.latency_after_ms
        (mark,) = axes.plot(expected, 0, "D", color=COLOURS["gone"], markersize=7, label="predicted")
        canvas.mark(mark, f"result: {expected:.3g} ms were predicted")
        canvas.legend_above()
    axes.set(xlabel=f"milliseconds a run, batch {validation.latency_batch}", ylim=(-0.6, 1.5))
    axes.set_xlim(0, 1.15 * max(_at(quantiles, HIGH) for quantiles in validation.latency_quantiles_ms))
    axes.set_yticks([1, 0], ["original", "result"])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _at(quantiles: tuple[float, ...], share: float) -> float:
    return quantiles[round(share * (len(quantiles) - 1))]
