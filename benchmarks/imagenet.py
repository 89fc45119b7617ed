"""Accuracy of every method on real ImageNet classifiers, by ratio and samples: the README's second table and plot.

    python benchmarks/imagenet.py [--ratios 0.15 0.3] [--samples 16 64 250] [--plot docs/imagenet.png]

`none`, `neuron-merging` and `lbyl` remove the filters of least L2 norm, as published; `moments` chooses its own (`obs`)
and is run on dead leaves, on the default samples (crops of photographs), and on so many photographs of the shared
material. Accuracies are top-1 on its other half, 250 photographs, so that one standard error is about 2.5 points.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from chart import Row, header, line, plot
from material import imagenet, require

from lbyl_onnx import Normalisation, compress, load
from lbyl_onnx.calibration.inputs import input_specs
from lbyl_onnx.model.model import Model

SCALINGS = {
    "tf": Normalisation((0.5,), (0.5,)),
    "minus128": Normalisation((128 / 255,), (1 / 255,)),
    "caffe": Normalisation((104 / 255, 117 / 255, 123 / 255), (1 / 255,) * 3),
}
"""How `tools/imagenet.py` scales the images of a model, as `compress` takes it."""


class Classifier:
    """One network with its photographs."""

    def __init__(self, name: str, tool: ModuleType) -> None:
        size, self.scaling = tool.MODELS[name]
        self.tool, self.name = tool, name
        self.model = load(require("realworld", f"{name}.onnx"))
        images, self.classes = tool.photographs(size)
        (spec,) = input_specs(self.model)
        self.given = {spec.name: tool.scaled(images[::2], self.scaling, spec.channel_axis == 3)}
        self.images = images
        self.scope = "all" if "squeezenet" in name else "chains"

    def accuracy(self, model: Model, which: slice = slice(1, None, 2)) -> float:
        """Top-1 in per cent on the photographs that are for evaluation."""
        content = model.to_proto().SerializeToString()
        return self.tool.top1(content, self.images[which], self.classes[which], self.scaling)

    def compressed(self, ratio: float, calibration: str | dict[str, np.ndarray] = "auto", **options: Any) -> Model:
        """The network without so many of its filters."""
        scale = SCALINGS[self.scaling] if isinstance(calibration, str) else None
        found = compress(
            self.model,
            ratio,
            scope=self.scope,
            allocation="uniform",
            calibration=calibration,
            normalisation=scale,
            validation=False,
            **options,
        )
        return found.compressed


def measure(network: Classifier, ratio: float, samples: list[int]) -> Row:
    """One network at one ratio."""
    methods = ("none", "neuron-merging", "lbyl")
    results = [network.compressed(ratio, criterion="l2", restore=method) for method in methods]
    results += [network.compressed(ratio, kind) for kind in ("leaves", "auto")]
    for count in samples:
        results.append(network.compressed(ratio, {name: array[:count] for name, array in network.given.items()}))
    accuracies = tuple(network.accuracy(result) for result in results)
    return Row(network.name, network.accuracy(network.model), ratio, accuracies)


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.15, 0.3])
    parser.add_argument("--samples", type=int, nargs="+", default=[250], help="photographs given")
    parser.add_argument("--models", nargs="+", help="names of networks; all by default")
    parser.add_argument("--plot", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    given = [f"moments, {count} photographs" for count in options.samples]
    methods = ["none", "neuron-merging", "lbyl", "moments, leaves", "moments, no data", *given]
    print(header(methods))
    rows = []
    tool = imagenet()
    for name in options.models or tool.MODELS:
        network = Classifier(name, tool)
        for ratio in options.ratios:
            rows.append(measure(network, ratio, options.samples))
            print(line(rows[-1]), flush=True)
    if options.plot:
        plot(rows, methods, options.plot)


if __name__ == "__main__":
    main()
