"""What `compress` says that a result lost, beside what it really lost, over networks, ratios and kinds of samples.

    python benchmarks/expected_loss.py [--ratios 0.03 0.07 0.12 0.2 0.3 0.45 0.65] [--plot docs/expected_loss.png]

Expected losses are those of the default comparison, on samples that were held out; actual ones those of top-1 on images
that nothing has seen: the evaluation half of the shared photographs, or the shared CIFAR images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accuracy import accuracy
from imagenet import SCALINGS, Classifier
from material import imagenet, images, require

from lbyl_onnx import compress, load
from lbyl_onnx.evaluation.records import Validation

CIFAR = ("resnet20_cifar10", "resnet20_cifar10_folded", "resnet56_cifar10", "resnet56_cifar10_folded")
TOO_MUCH = 10
"""Points of accuracy from which on a result should be called damaged."""


@dataclass(frozen=True)
class Point:
    """One run: points of accuracy that it was expected to lose, the ends of that, and those that it lost."""

    model: str
    ratio: float
    samples: str
    expected: float
    low: float
    high: float
    actual: float
    level: str

    @property
    def right(self) -> bool:
        """Whether it was called damaged, or worse, exactly where it lost more than TOO_MUCH."""
        return (self.level in ("damaged", "ruined")) == (self.actual > TOO_MUCH)


def point(model: str, ratio: float, samples: str, validation: Validation | None, actual: float) -> Point:
    """A run as a point."""
    assert validation is not None and validation.verdict is not None
    classes = next(output.classes for output in validation.outputs if output.classes is not None)
    expected, low, high = (100 * end for end in (classes.expected_loss, *classes.expected_loss_interval))
    return Point(model, ratio, samples, expected, low, high, actual, validation.verdict.level)


def real_networks(ratios: list[float]) -> Iterator[Point]:
    """The ImageNet classifiers, with photographs and without data."""
    tool = imagenet()
    for name in tool.MODELS:
        network = Classifier(name, tool)
        before = network.accuracy(network.model)
        for ratio in ratios:
            for kind in ("given", "auto"):
                given = network.given if kind == "given" else kind
                scale = None if kind == "given" else SCALINGS[network.scaling]
                done = compress(
                    network.model,
                    ratio,
                    scope=network.scope,
                    calibration=given,
                    normalisation=scale,
                    allocation="uniform",
                )
                actual = before - network.accuracy(done.compressed)
                yield point(name, ratio, kind, done.report.validation, actual)


def small_networks(ratios: list[float]) -> Iterator[Point]:
    """The CIFAR networks, with images and without data."""
    for name in CIFAR:
        model = load(require("models", f"{name}.onnx"))
        given = {model.proto.graph.input[0].name: images("cifar10_calibration").images[:256]}
        before = accuracy(model, "cifar10_eval")
        for ratio in ratios:
            for kind in ("given", "auto"):
                done = compress(model, ratio, calibration=given if kind == "given" else kind, allocation="uniform")
                yield point(
                    name, ratio, kind, done.report.validation, before - accuracy(done.compressed, "cifar10_eval")
                )


def plot(points: list[Point], path: Path) -> None:
    """Expected against actual losses, one panel for each kind of samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {"given": "own samples, a tenth held out", "auto": "no data, judged on other photographs"}
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(9.5, 4.2), sharex=True, sharey=True)
    for panel, (kind, title) in zip(panels, kinds.items(), strict=True):
        for index, name in enumerate(dict.fromkeys(each.model for each in points)):
            shown = [each for each in points if each.model == name and each.samples == kind]
            reach = [[each.expected - each.low for each in shown], [each.high - each.expected for each in shown]]
            actual, expected = [each.actual for each in shown], [each.expected for each in shown]
            label = name.split("_imagenet")[0].replace("_", " ")
            panel.errorbar(actual, expected, reach, fmt="o", ms=4, lw=0.7, color=f"C{index}", label=label)
        panel.plot([0, 80], [0, 80], color="black", lw=0.7)
        panel.axvline(TOO_MUCH, color="grey", lw=0.7, ls=":")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("points of accuracy really lost")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("expected loss, with its 95 % interval")
    panels[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.03, 0.07, 0.12, 0.2, 0.3, 0.45, 0.65])
    parser.add_argument("--plot", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    header = ("model", "removed", "samples", "expected loss", "actual loss", "verdict", "")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    points = []
    for networks in (real_networks, small_networks):
        for each in networks(options.ratios):
            points.append(each)
            expected = f"{each.expected:.1f} ({each.low:.1f} to {each.high:.1f})"
            told = "" if each.right else "wrong"
            cells = (each.model, f"{each.ratio:.0%}", each.samples, expected, f"{each.actual:.1f}", each.level, told)
            print(f"| {' | '.join(cells)} |", flush=True)
    for kind in ("given", "auto"):
        shown = [each for each in points if each.samples == kind]
        print(f"{kind}: {sum(each.right for each in shown)} of {len(shown)} verdicts right")
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
