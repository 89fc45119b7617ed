"""What planning costs: time of the sensitivities and of the whole of `plan`, in forward passes of the same samples.

    python benchmarks/planning.py [tv_resnet50 mcunet_512kb_2mb_imagenet_160] [--samples 64] [--scope chains]

Everything is measured in one process, so the ratios hold on a noisy machine; peak memory is the process's own.
"""

from __future__ import annotations

import argparse
import resource
import time

from lbyl_onnx import load, plan  # isort: skip: before numpy, whose threads it keeps from spinning

from material import forward_seconds, require, zoo

from lbyl_onnx.model.model import Model
from lbyl_onnx.progress import SHARES, Progress

FOLDERS = ("realworld", "models", "zoo")
RANKED = SHARES["analysing"] + SHARES["sampling"] + SHARES["choosing"] / 2
"""Share of a run after which units are ranked."""


def model_named(name: str) -> Model:
    """A network of the material, weights made up where the file has none."""
    for folder in FOLDERS[:-1]:
        path = require(folder) / f"{name}.onnx"
        if path.exists():
            return load(path)
    return load(zoo().materialize(require(FOLDERS[-1], f"{name}.onnx")))


class Stopwatch:
    """Seconds of the ranking, of the sensitivities and of the rest, from what `plan` tells."""

    def __init__(self) -> None:
        self.seconds = {"ranking": 0.0, "sensitivities": 0.0, "rest": 0.0}
        self._part, self._since = "rest", time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        self.seconds[self._part] += now - self._since
        self._since = now
        chosen = "ranking" if progress.share < RANKED - 1e-9 else "sensitivities"
        self._part = chosen if progress.stage == "choosing" else "rest"


def main() -> None:
    """Print one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["tv_resnet50", "mcunet_512kb_2mb_imagenet_160"])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--scope", default="chains")
    options = parser.parse_args()
    header = ("network", "groups", "forward s", "ranking", "sensitivities", "for each group", "plan", "GiB")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for name in options.models:
        model = model_named(name)
        forward = forward_seconds(model, options.samples)
        watch = Stopwatch()
        started = time.perf_counter()
        found = plan(model, samples=options.samples, scope=options.scope, progress=watch)
        seconds = time.perf_counter() - started
        groups = sum(bool(group.curve) for group in found.groups)
        passes = watch.seconds["sensitivities"] / forward
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        ranking = watch.seconds["ranking"] / forward
        cells = (f"{ranking:.1f}", f"{passes:.1f}", f"{passes / max(groups, 1):.2f}", f"{seconds / forward:.1f}")
        print(f"| {name} | {groups} | {forward:.1f} | {' | '.join(cells)} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
