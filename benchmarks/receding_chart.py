"""Importances and accuracies by penalty, for docs/training.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from receding import Found

COLOURS = {"none": "#8a8a8a", "l1": "#4f86c6", "receding": "#c8553d"}
RESTORATIONS = {"none": (":", "cut only"), "moments": ("-", "restored")}
SCALES = np.geomspace(1e-4, 2, 40)


def plot(found: Sequence[Found], ratios: Sequence[float], path: Path) -> None:
    """For each network a row of histograms of |scale| above a row of accuracies by ratio; a column for each data
    set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = list(dict.fromkeys(each.task.network for each in found))
    sets = list(dict.fromkeys(each.task.data for each in found))
    shape = 2 * len(networks), len(sets)
    figure, panels = pyplot.subplots(*shape, figsize=(3.6 * shape[1] + 1.4, 2.4 * shape[0]), squeeze=False)
    for row, network in enumerate(networks):
        for column, data in enumerate(sets):
            above, below = panels[2 * row : 2 * row + 2, column]
            for penalty, colour in COLOURS.items():
                runs = [e for e in found if (e.task.network, e.task.data, e.task.penalty) == (network, data, penalty)]
                scales = np.concatenate([run.scales for run in runs]).clip(SCALES[0], SCALES[-1])
                shares = np.full(len(scales), 100 / len(scales))
                above.hist(scales, SCALES, weights=shares, histtype="step", color=colour, linewidth=1.4, label=penalty)
                for restore, (dash, words) in RESTORATIONS.items():
                    means = [np.mean([run.after["global", ratio, restore] for run in runs]) for ratio in ratios]
                    line = [np.mean([run.before for run in runs]), *means]
                    shown = [0, *(100 * ratio for ratio in ratios)]
                    below.plot(shown, line, dash, marker=".", color=colour, label=f"{penalty}, {words}")
            above.set(title=f"{network}, {data}", xscale="log", xlabel="|scale|")
            below.set(xlabel="units removed, %", ylim=(0, 102))
    for row, label in zip(panels, ("channels, %", "accuracy, %") * len(networks), strict=True):
        row[0].set_ylabel(label)
        row[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        for panel in row:
            panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
