"""Accuracy of every restoration method by model and ratio, as a table for the README.

    python benchmarks/accuracy.py [--ratios 0.3 0.5]

All methods remove the same filters (criterion l2), so they differ in restoration alone.
"""

from __future__ import annotations

import argparse

from material import images, require

from lbyl_onnx import compress, load
from lbyl_onnx.model_file import Model
from lbyl_onnx.restoration import METHODS
from lbyl_onnx.runtime import open_session, run_batches

MODELS = {
    "resnet20_cifar10": "cifar10_eval",
    "resnet20_cifar10_folded": "cifar10_eval",
    "resnet56_cifar10": "cifar10_eval",
    "resnet56_cifar10_folded": "cifar10_eval",
    "lenet_300_100_fashion": "fashion_mnist_test",
}


def accuracy(model: Model, data: str) -> float:
    """Top-1 accuracy in per cent of `model` on the data file `data`."""
    samples = images(data)
    name = model.proto.graph.input[0].name
    logits = run_batches(open_session(model), {name: samples.images})[0]
    return 100 * float((logits.argmax(axis=1) == samples.labels).mean())


def main() -> None:
    """Print one row for each model and ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    options = parser.parse_args()
    methods = METHODS[::-1]
    print(f"| model | original | ratio | {' | '.join(methods)} |\n| --- | --- | --- |{' --- |' * len(methods)}")
    for name, data in MODELS.items():
        model = load(require("models", f"{name}.onnx"))
        original = accuracy(model, data)
        for ratio in options.ratios:
            cells = [
                accuracy(compress(model, ratio, criterion="l2", restore=method, validation=False).compressed, data)
                for method in methods
            ]
            row = " | ".join(f"{cell:.1f}" for cell in cells)
            print(f"| {name} | {original:.1f} | {ratio:g} | {row} |", flush=True)


if __name__ == "__main__":
    main()
