"""Accuracy of every restoration method by model and ratio: the README's table and plot.

    python benchmarks/accuracy.py [--ratios 0.3 0.5] [--plot docs/accuracy.png]

`none`, `neuron-merging` and `lbyl` remove the filters of least L2 norm, as published; `moments` chooses its own
(`obs`) and is run without data and with 256 unlabelled calibration images of the shared material.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from material import images, require

from lbyl_onnx import compress, load
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run_batches

DATA = {
    "cifar10": ("cifar10_eval", "cifar10_calibration"),
    "fashion": ("fashion_mnist_test", "fashion_mnist_calibration"),
}
MODELS = (
    "resnet20_cifar10",
    "resnet20_cifar10_folded",
    "resnet56_cifar10",
    "resnet56_cifar10_folded",
    "lenet_300_100_fashion",
)
METHODS = ("none", "neuron-merging", "lbyl", "moments, no data", "moments, 256 images")


@dataclass(frozen=True)
class Row:
    """One model at one ratio: accuracies in per cent, of the original and by method."""

    model: str
    original: float
    ratio: float
    accuracies: tuple[float, ...]


def accuracy(model: Model, data: str) -> float:
    """Top-1 accuracy in per cent of `model` on the data file `data`."""
    samples = images(data)
    name = model.proto.graph.input[0].name
    logits = run_batches(open_session(model), {name: samples.images})[0]
    return 100 * float((logits.argmax(axis=1) == samples.labels).mean())


def measure(name: str, ratios: list[float]) -> list[Row]:
    """Rows of one model."""
    evaluation, calibration = next(files for key, files in DATA.items() if key in name)
    model = load(require("models", f"{name}.onnx"))
    given = {model.proto.graph.input[0].name: images(calibration).images}
    original = accuracy(model, evaluation)
    rows = []
    for ratio in ratios:
        results = [compress(model, ratio, criterion="l2", restore=method, validation=False) for method in METHODS[:3]]
        results.append(compress(model, ratio, validation=False))
        results.append(compress(model, ratio, calibration=given, samples=256, validation=False))
        rows.append(Row(name, original, ratio, tuple(accuracy(each.compressed, evaluation) for each in results)))
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """One panel a ratio, one group of bars a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ratios = sorted({row.ratio for row in rows})
    figure, panels = pyplot.subplots(1, len(ratios), figsize=(5.5 * len(ratios), 4), sharey=True, squeeze=False)
    colours = ["#b0b0b0", "#8fb8de", "#4f86c6", "#f2a65a", "#c8553d"]
    for panel, ratio in zip(panels[0], ratios, strict=True):
        shown = [row for row in rows if row.ratio == ratio]
        for index, (method, colour) in enumerate(zip(METHODS, colours, strict=True)):
            places = [position + 0.16 * (index - 2) for position in range(len(shown))]
            panel.bar(places, [row.accuracies[index] for row in shown], width=0.15, color=colour, label=method)
        for position, row in enumerate(shown):
            panel.hlines(row.original, position - 0.42, position + 0.42, colors="black", linewidth=1)
        panel.set_title(f"{ratio:.0%} of the filters removed")
        panel.set_xticks(
            range(len(shown)), [row.model.replace("_", "\n", 1).replace("_", " ") for row in shown], fontsize=7
        )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("top-1 accuracy, % (line: original)")
    panels[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--plot", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    print(f"| model | original | removed | {' | '.join(METHODS)} |\n| --- | --- | --- |{' --- |' * len(METHODS)}")
    rows = []
    for name in MODELS:
        for row in measure(name, options.ratios):
            cells = " | ".join(f"{value:.1f}" for value in row.accuracies)
            print(f"| {row.model} | {row.original:.1f} | {row.ratio:.0%} | {cells} |", flush=True)
            rows.append(row)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
