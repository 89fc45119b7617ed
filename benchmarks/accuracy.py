"""Accuracy of every restoration method by model and ratio: the README's table and plot.

    python benchmarks/accuracy.py [--ratios 0.3 0.5] [--plot docs/accuracy.png]

`none`, `neuron-merging` and `lbyl` remove the filters of least L2 norm, as published; `moments` chooses its own
(`obs`) and is run without data and with 256 unlabelled calibration images of the shared material. In the last column
the same work is saved by sensitivity, in all others every group loses the same share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from chart import Row, header, line, plot
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
METHODS = ("none", "neuron-merging", "lbyl", "moments, no data", "moments, 256 images", "by sensitivity, no data")


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
        results.append(compress(model, ratio, allocation="uniform", validation=False))
        results.append(compress(model, ratio, allocation="uniform", calibration=given, samples=256, validation=False))
        results.append(compress(model, ratio, validation=False))
        rows.append(Row(name, original, ratio, tuple(accuracy(each.compressed, evaluation) for each in results)))
    return rows


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--plot", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    print(header(METHODS))
    rows = []
    for name in MODELS:
        for row in measure(name, options.ratios):
            print(line(row), flush=True)
            rows.append(row)
    if options.plot:
        plot(rows, METHODS, options.plot)


if __name__ == "__main__":
    main()
