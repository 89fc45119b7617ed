"""Networks that are trained to be pruned: accuracy after one-shot global pruning, by the penalty that they were trained
with; the table of docs/training.md, 12 minutes on two shared cores.

    python benchmarks/receding.py [--quick] [--networks vgg] [--seeds 3] [--plot docs/receding.png]
    python benchmarks/receding.py --tune

Small networks on small images: a part of the labelled images trains, the rest, the same for all seeds, is what
accuracies are of. Nothing is fine-tuned. Digits of scikit-learn are 8 x 8 (1,797 images, 1,200 train); Fashion-MNIST
(10,000 images, 4,000 train) and CIFAR-10 (2,000 images, 1,500 train) of the shared material are halved to 14 x 14 and
16 x 16. `none, uniform` is plain training where every group loses the same share by l2; all others lose the units of
least |scale| in the whole network. `--tune` chooses `PENALTIES` without a test image.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # one process on each core

import numpy as np
import torch
from material import ROOT
from receding_chart import plot
from receding_training import NETWORKS, TRAINED, Images, Task, split, train

from lbyl_onnx import NothingToRemove, compress
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import RunOptions
from lbyl_onnx.training import fold, importances

sys.path.insert(0, str(ROOT / "tests"))
from torch_export import exported

RATIOS = (0.3, 0.5, 0.7, 0.9)
JUDGED = (0.7, 0.9)
RESTORED = ("none", "moments")
CALIBRATION = 256
TUNING_SEED = 100
ONE_POINT = 1.0
TRIED: dict[str, list[tuple[float, ...]]] = {
    "l1": [(0.001,), (0.002,), (0.004,), (0.008,), (0.016,)],
    "receding": [(0.03, 2.0), (0.06, 2.0), (0.12, 2.0), (0.25, 3.0), (0.6, 3.0)],
}
"""Strength, and b."""
PENALTIES: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("vgg", "digits"): {"l1": (0.008,), "receding": (0.6, 3.0)},
    ("vgg", "fashion"): {"l1": (0.001,), "receding": (0.03, 2.0)},
    ("vgg", "cifar10"): {"l1": (0.002,), "receding": (0.03, 2.0)},
    ("resnet", "digits"): {"l1": (0.016,), "receding": (0.6, 3.0)},
    ("resnet", "fashion"): {"l1": (0.001,), "receding": (0.03, 2.0)},
    ("resnet", "cifar10"): {"l1": (0.002,), "receding": (0.25, 3.0)},
}
"""What `--tune` chose, by network and data."""


@dataclass(frozen=True)
class Found:
    """Accuracies on the images that were not trained on, in per cent: `before`, and `after` by allocation, ratio and
    restoration. `scales`: float32 (channels,), of all BatchNormalization; `auto`: the share of units that ratio auto
    removed, None where it found no gap."""

    task: Task
    before: float
    after: dict[tuple[str, float | str, str], float]
    scales: np.ndarray
    auto: float | None

    @property
    def pruned(self) -> float:
        """The mean accuracy at the ratios of `JUDGED`, cut only and restored."""
        return float(np.mean([self.after["global", ratio, restore] for ratio in JUDGED for restore in RESTORED]))


def measure(task: Task) -> Found:
    """Train one network, prune it in all ways, and see what it is still right about."""
    torch.set_num_threads(1)
    known, judges = split(task.data, task.tuning)
    network = train(task, known)
    model = exported(fold(network), known.pixels.shape[1:])
    given = {"image": known.pixels[:CALIBRATION]}
    ways: list[tuple[str, str, float | Literal["auto"]]] = [
        ("global", "bn-scale", ratio) for ratio in (*RATIOS, "auto")
    ]
    if task.penalty == "none":
        ways += [("uniform", "l2", ratio) for ratio in RATIOS]
    after: dict[tuple[str, float | str, str], float] = {}
    auto = None
    for allocation, criterion, ratio in ways:
        for restore in RESTORED:
            try:
                result = compress(
                    model, ratio, criterion=criterion, allocation=allocation, restore=restore, calibration=given,
                    threads=1, validation=False,
                )  # fmt: skip
            except NothingToRemove:
                continue
            after[allocation, ratio, restore] = accuracy(result.compressed, judges)
            if ratio == "auto":
                groups = [each for each in result.report.groups if each.frozen_reason is None]
                auto = 1 - sum(each.units_after for each in groups) / sum(each.units_before for each in groups)
    return Found(task, accuracy(model, judges), after, importances(network).numpy(), auto)


def accuracy(model: Model, judges: Images) -> float:
    """How many of the images it is right about, in per cent."""
    logits = run_batches(open_session(model, RunOptions("cpu", 1)), {"image": judges.pixels})[0]
    return 100 * float((logits.argmax(axis=1) == judges.labels).mean())


def measured(tasks: Iterable[Task]) -> Iterable[Found]:
    """All tasks, two at a time."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(measure, tasks)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"


def table(found: list[Found]) -> None:
    """A row for each network, data set and penalty."""
    columns = " | ".join(["network, data", "penalty", "before", *(f"{ratio:.0%}" for ratio in RATIOS), "auto"])
    print(f"| {columns} |\n|{' --- |' * (len(RATIOS) + 4)}")
    for network, data in dict.fromkeys((each.task.network, each.task.data) for each in found):
        for penalty, allocation in (("none", "uniform"), ("none", "global"), ("l1", "global"), ("receding", "global")):
            wanted = (network, data, penalty)
            runs = [each for each in found if (each.task.network, each.task.data, each.task.penalty) == wanted]
            named = penalty if allocation == "global" else f"{penalty}, uniform"
            print(f"| {network}, {data} | {named} | {' | '.join(row(runs, allocation))} |", flush=True)


def row(runs: list[Found], allocation: str) -> list[str]:
    """Mean and spread over the seeds: accuracy before, and after by ratio, cut only / restored; what auto does, the
    share that it takes, and in how many of the networks it finds a gap."""
    cells = [spread([run.before for run in runs])]
    for ratio in (*RATIOS, "auto"):
        ways = [(allocation, ratio, restore) for restore in RESTORED]
        cells.append(" / ".join(spread([run.after[way] for run in runs if way in run.after]) for way in ways))
    gaps = [run.auto for run in runs if run.auto is not None]
    if allocation == "uniform" or not gaps:
        return [*cells[:-1], "" if allocation == "uniform" else "no gap"]
    return [*cells[:-1], f"{np.mean(gaps):.0%}: {cells[-1]} ({len(gaps)} of {len(runs)})"]


def tune(networks: Iterable[str]) -> None:
    """Print what every setting leaves of networks that are trained on two thirds of the training images, on the other
    third, and what is `chosen`."""
    penalties = [("none", ()), *((penalty, settings) for penalty, tried in TRIED.items() for settings in tried)]
    places = [(network, data) for network in networks for data in TRAINED]
    runs = iter(
        measured(Task(data, network, *each, TUNING_SEED, True) for network, data in places for each in penalties)
    )
    for place in places:
        found = list(islice(runs, len(penalties)))
        for each in found:
            pairs = [[each.after["global", ratio, restore] for restore in RESTORED] for ratio in RATIOS]
            after = "  ".join(f"{cut:5.1f} /{restored:5.1f}" for cut, restored in pairs)
            settings = ", ".join(map(str, each.task.settings))
            print(f"{' '.join(place):16}{each.task.penalty:10}{settings:10}{each.before:6.1f}  {after}")
        print(f"{place}: {chosen(found)},", flush=True)


def chosen(found: list[Found]) -> dict[str, tuple[float, ...]]:
    """For each penalty the settings that leave most after pruning (`Found.pruned`), of those within a point of plain
    training before; where there are none, those that are best before."""
    plain = next(each.before for each in found if each.task.penalty == "none")
    best = {}
    for penalty in TRIED:
        runs = [each for each in found if each.task.penalty == penalty]
        close = [each for each in runs if each.before >= plain - ONE_POINT]
        best[penalty] = max(close, key=lambda run: run.pruned) if close else max(runs, key=lambda run: run.before)
    return {penalty: run.task.settings for penalty, run in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one seed of the VGG on digits")
    parser.add_argument("--tune", action="store_true", help="choose strengths of the penalties")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.tune:
        tune(options.networks)
    else:
        tasks = [
            Task(data, network, penalty, PENALTIES[network, data].get(penalty, ()), seed)
            for network in (("vgg",) if options.quick else options.networks)
            for data in (("digits",) if options.quick else TRAINED)
            for seed in range(1 if options.quick else options.seeds)
            for penalty in ("none", "l1", "receding")
        ]
        found = list(measured(tasks))
        table(found)
        if options.plot:
            plot(found, RATIOS, options.plot)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
