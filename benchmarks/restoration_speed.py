"""How long LBYL's solve takes for a wide layer, beside one plain product of its filters.

    python benchmarks/restoration_speed.py [--filters 2048] [--inputs 2048] [--ratio 0.5]

The product W W^T of all filters is what any method based on their inner products has to pay; the rest is what solving
for every removed filter with its own penalty costs on top.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from lbyl_onnx.channels.folding import ProducerLayer
from lbyl_onnx.channels.groups import WeightAxis
from lbyl_onnx.model.graph import Constant
from lbyl_onnx.options import PruneOptions
from lbyl_onnx.restoration.lbyl import lbyl
from lbyl_onnx.selection.plan import units_kept


def random_layer(filters: int, size: int) -> ProducerLayer:
    """A convolution of `filters` filters of `size` weights with a BatchNormalization behind it."""
    rng = np.random.default_rng(0)
    units, weight = np.arange(filters), Constant("weight", np.dtype(np.float64), exclusive=True)
    return ProducerLayer(
        WeightAxis(node=0, slot=1, name="conv", op="Conv", weight=weight, axis=0, units=units, groups=1),
        filters=rng.standard_normal((filters, size)) / np.sqrt(size),
        bias=np.zeros(filters),
        scale=rng.uniform(0.5, 1.5, filters),
        shift=rng.standard_normal(filters),
        output="normalised",
        gamma=np.ones(filters),
    )


def seconds(work: Callable[[], np.ndarray], repeats: int = 3) -> float:
    """Wall time of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Time both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=2048)
    parser.add_argument("--inputs", type=int, default=2048, help="input channels of the 3x3 filters")
    parser.add_argument("--ratio", type=float, default=0.5)
    options = parser.parse_args()
    layer = random_layer(options.filters, 9 * options.inputs)
    kept, removed = np.split(np.arange(options.filters), [units_kept(options.filters, options.ratio)])
    strength = PruneOptions(options.ratio)
    weights = layer.filters
    product = seconds(lambda: weights @ weights.T)
    solve = seconds(lambda: lbyl(layer, kept, removed, strength))
    print(f"{options.filters} filters of {weights.shape[1]} weights, {len(removed)} removed (float64)")
    print(f"LBYL {solve:.2f} s; W W^T {product:.2f} s; ratio {solve / product:.2f}")


if __name__ == "__main__":
    main()
