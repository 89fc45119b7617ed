"""Choose LBYL's default penalties: accuracy over a grid of (lambda1, lambda2), on BN graphs and their folded twins.

    python benchmarks/lambdas.py [--ratio 0.3] [--samples 1000]

Prints one table a model, accuracies in per cent on the first half of cifar10_eval, and the pair with the best mean
over all models.
"""

from __future__ import annotations

import argparse

import numpy as np
from material import images, require

from lbyl_onnx import compress, load
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run_batches

MODELS = ("resnet20_cifar10", "resnet20_cifar10_folded", "resnet56_cifar10", "resnet56_cifar10_folded")
LAMBDA1 = (0.0, 1.0, 10.0, 100.0)
LAMBDA2 = (1e-3, 1e-2, 1e-1, 1.0)


def accuracy(model: Model, pixels: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in per cent of float32 images (samples, channels, height, width)."""
    name = model.proto.graph.input[0].name
    logits = run_batches(open_session(model), {name: pixels})[0]
    return 100 * float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Run the grid and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    data = images("cifar10_eval")
    assert data.labels is not None
    pixels, labels = data.images[: options.samples], data.labels[: options.samples]
    grids = []
    for name in MODELS:
        model = load(require("models", f"{name}.onnx"))
        plain = compress(model, options.ratio, criterion="l2", restore="none", validation=False)
        before, cut = (accuracy(each, pixels, labels) for each in (model, plain.compressed))
        print(f"{name}: original {before:.1f}, none {cut:.1f}")
        print("lambda1 \\ lambda2" + "".join(f"{value:8g}" for value in LAMBDA2))
        grid = np.zeros((len(LAMBDA1), len(LAMBDA2)))
        for row, lambda1 in enumerate(LAMBDA1):
            for column, lambda2 in enumerate(LAMBDA2):
                result = compress(
                    model,
                    options.ratio,
                    criterion="l2",
                    restore="lbyl",
                    lambda1=lambda1,
                    lambda2=lambda2,
                    validation=False,
                )
                grid[row, column] = accuracy(result.compressed, pixels, labels)
            print(f"{lambda1:17g}" + "".join(f"{value:8.1f}" for value in grid[row]), flush=True)
        grids.append(grid)
    mean = np.mean(grids, axis=0)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    print(f"best mean: lambda1={LAMBDA1[row]:g} lambda2={LAMBDA2[column]:g}: {mean.max():.2f}")


if __name__ == "__main__":
    main()
