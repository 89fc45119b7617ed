"""Accuracies by model, ratio and method, as a table for the README and as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("#b0b0b0", "#8fb8de", "#4f86c6", "#b7ddb0", "#f2a65a", "#c8553d")


@dataclass(frozen=True)
class Row:
    """One model at one ratio: accuracies in per cent, of the original and by method."""

    model: str
    original: float
    ratio: float
    accuracies: tuple[float, ...]


def header(methods: Sequence[str]) -> str:
    """The two lines above the rows."""
    return f"| model | original | removed | {' | '.join(methods)} |\n| --- | --- | --- |{' --- |' * len(methods)}"


def line(row: Row) -> str:
    """One row of the table."""
    cells = " | ".join(f"{value:.1f}" for value in row.accuracies)
    return f"| {row.model} | {row.original:.1f} | {row.ratio:.0%} | {cells} |"


def plot(rows: Sequence[Row], methods: Sequence[str], path: Path) -> None:
    """One panel a ratio, one group of bars a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ratios = sorted({row.ratio for row in rows})
    figure, panels = pyplot.subplots(1, len(ratios), figsize=(5.5 * len(ratios), 4), sharey=True, squeeze=False)
    colours = COLOURS if len(methods) == len(COLOURS) else (*COLOURS[:3], *COLOURS[4:])
    width = 0.8 / len(methods)
    for panel, ratio in zip(panels[0], ratios, strict=True):
        shown = [row for row in rows if row.ratio == ratio]
        for index, (method, colour) in enumerate(zip(methods, colours, strict=True)):
            places = [position + width * (index - (len(methods) - 1) / 2) for position in range(len(shown))]
            panel.bar(places, [row.accuracies[index] for row in shown], width=0.94 * width, color=colour, label=method)
        for position, row in enumerate(shown):
            panel.hlines(row.original, position - 0.42, position + 0.42, colors="black", linewidth=1)
        panel.set_title(f"{ratio:.0%} of the filters removed")
        names = [row.model.split("_imagenet")[0].replace("_", "\n", 1).replace("_", " ") for row in shown]
        panel.set_xticks(range(len(shown)), names, fontsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("top-1 accuracy, % (line: original)")
    panels[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
