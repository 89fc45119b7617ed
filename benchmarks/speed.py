"""Time of `compress` with defaults beside one plain forward pass of the same samples, and its peak memory.

    python benchmarks/speed.py [tv_resnet50] [--samples 64] [--scope chains]

Everything is measured in one process, so the ratio holds on a noisy machine; peak memory is the process's own.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from lbyl_onnx import compress, load  # isort: skip: before numpy, whose threads it keeps from spinning

import onnx
from material import forward_seconds, require, zoo


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["tv_resnet50"])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--scope", default="chains")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--allocation", default="uniform")
    options = parser.parse_args()
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.onnx")
            onnx.save(zoo().materialize(require("zoo", f"{name}.onnx")), path)
            model = load(path)
            forward = forward_seconds(model, options.samples)
            started = time.perf_counter()
            compress(path, options.ratio, samples=options.samples, scope=options.scope, allocation=options.allocation)
            seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name}: forward of {options.samples} samples {forward:.1f} s, compress {seconds:.1f} s, "
            f"ratio {seconds / forward:.1f}, peak memory {peak:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
