"""Whether latencies are as predicted: random plans of real networks, predicted, then timed beside the original.

    python benchmarks/predicted_latency.py [--plans 3] [--threads 1 2] [--only yunet]

A plan takes up to 60 per cent of every group, and leaves multiples of 16, 8 or 1. What is compared is the share of the
original's latency that is left; beside it stands what multiply-accumulates alone would predict.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from lbyl_onnx import load  # isort: skip: before numpy, whose threads it keeps from spinning

import numpy as np
from material import require

from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.channels.costs import CostModel
from lbyl_onnx.channels.groups import Analysis, analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.evaluation.latency import latencies
from lbyl_onnx.model.initializers import unshare
from lbyl_onnx.model.session import open_session
from lbyl_onnx.options import RunOptions, SampleOptions
from lbyl_onnx.selection.latency_model import LatencyModel
from lbyl_onnx.selection.plan import emptied

MULTIPLES = (16, 8, 1)
MOST = 0.6


def random_counts(analysis: Analysis, multiple: int, rng: np.random.Generator) -> np.ndarray:
    """Units that go of every group, int64 (groups,), so that a multiple stays."""
    counts = []
    for group in analysis.groups:
        free = 0 if group.frozen_reason or group.unreadable else int(group.free.sum())
        left = np.ceil(group.units * (1 - rng.uniform(0, MOST)) / multiple) * multiple
        counts.append(int(np.clip(group.units - left, 0, min(free, group.units - 1))))
    return np.array(counts)


def measured(path: Path, threads: int, plans: int) -> list[tuple[int, float, float, float]]:
    """Multiple, and what is left of the latency, predicted by the model, by multiply-accumulates, and measured."""
    options = RunOptions("cpu", threads)
    source = load(path)
    working, _ = unshare(source)
    analysis = analyse(working, probe(working))
    movable = np.array([not (group.frozen_reason or group.unreadable) for group in analysis.groups])
    model, costs = LatencyModel(analysis, options, movable), CostModel(analysis)
    none = np.zeros(len(analysis.groups), np.int64)
    whole = open_session(source, options)
    feed = synthetic_inputs(source, 1, SampleOptions())
    rng = np.random.default_rng(1)
    found = []
    for multiple in MULTIPLES:
        for _ in range(plans):
            counts = random_counts(analysis, multiple, rng)
            if not counts.any():
                continue
            kept = np.ones(analysis.classes.count, bool)
            for group, count in zip(analysis.groups, counts, strict=True):
                kept[group.classes[rng.choice(np.flatnonzero(group.free), count, replace=False)]] = False
            if emptied(analysis, kept):
                continue
            before, after = latencies(whole, open_session(cut(analysis, kept), options), feed, []).medians
            predicted = float(model.milliseconds(counts) / model.milliseconds(none))
            found.append((multiple, predicted, float(costs.macs(counts) / costs.macs(none)), after / before))
    return found


def row(label: str, plans: np.ndarray) -> str:
    """How near predictions are, of plans (plans, 3): predicted, by multiply-accumulates, measured."""
    errors = np.abs(plans[:, :2] / plans[:, 2:] - 1)
    shares = (errors[:, 0] < 0.1).mean(), (errors[:, 0] < 0.2).mean()
    cells = [f"{100 * share:.0f} %" for share in shares] + [f"{100 * np.median(errors[:, 0]):.1f} %"]
    return f"| {label} | {len(plans)} | {' | '.join(cells)} | {100 * (errors[:, 1] < 0.1).mean():.0f} % |"


def main() -> None:
    """Print one table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=3, help="of each multiple, for each network")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    for threads in options.threads:
        found: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
        for path in sorted(path for path in require("realworld").glob("*.onnx") if options.only in path.stem):
            for multiple, predicted, by_macs, timed in measured(path, threads, options.plans):
                found[multiple].append((predicted, by_macs, timed))
        header = (
            f"multiples of ({threads} threads)",
            "plans",
            "within 10 %",
            "within 20 %",
            "median error",
            "MACs alone",
        )
        print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
        for multiple in MULTIPLES:
            if found[multiple]:
                print(row(str(multiple), np.array(found[multiple])))
        print(row("all", np.array([each for multiple in MULTIPLES for each in found[multiple]])), flush=True)


if __name__ == "__main__":
    main()
