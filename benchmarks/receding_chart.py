"""Importances and accuracies by penalty, for docs/training.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from receding import Found

COLOURS = {"none": "#8a8a8a", "l1": "#4f86c6", "receding": "#c8553d"}
DASHES = {"none": ":", "moments": "-"}


def plot(found: Sequence[Found], ratios: Sequence[float], path: Path) -> None:
    """Two rows, histograms of |scale| above accuracies by ratio; one column a data set and network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = list(dict.fromkeys((each.task.data, each.task.network) for each in found))
    figure, panels = pyplot.subplots(2, len(columns), figsize=(3 * len(columns), 5.6), squeeze=False)
    for (data, network), above, below in zip(columns, *panels, strict=True):
        for penalty, colour in COLOURS.items():
            runs = [e for e in found if (e.task.data, e.task.network, e.task.penalty) == (data, network, penalty)]
            scales = np.concatenate([run.scales for run in runs])
            above.hist(np.minimum(scales, 1.5), np.linspace(0, 1.5, 46), histtype="step", color=colour, label=penalty)
            for restore, dash in DASHES.items():
                means = [np.mean([run.after["global", ratio, restore] for run in runs]) for ratio in ratios]
                label = f"{penalty}, {'restored' if restore == 'moments' else 'cut only'}"
                before = np.mean([run.before for run in runs])
                below.plot([0, *ratios], [before, *means], dash, marker=".", color=colour, label=label)
        above.set_title(f"{data}, {network}", fontsize=9)
        above.set_yscale("log")
        above.set_xlabel("|scale|", fontsize=8)
        below.set_xlabel("share of the units removed", fontsize=8)
        for panel in (above, below):
            panel.tick_params(labelsize=7)
            panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("channels", fontsize=8)
    panels[1][0].set_ylabel("accuracy, %", fontsize=8)
    for row in panels:
        row[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
