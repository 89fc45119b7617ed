"""Whether smaller is faster: latency of real networks beside that of what `compress` makes of them.

    python benchmarks/latency.py [--ratio 0.3] [--scope all] [--round-to 8] [--threads 1 2] [--only yunet]

Both are timed in turns within one process, so the ratios hold on a noisy machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lbyl_onnx import NothingToRemove, compress, load  # isort: skip: before numpy, whose threads it keeps from spinning

import numpy as np
from material import require

from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.errors import counted
from lbyl_onnx.evaluation.latency import latencies
from lbyl_onnx.model.session import open_session
from lbyl_onnx.options import RunOptions, SampleOptions

SLOWER = 1.03


def measure(path: Path, options: argparse.Namespace, threads: int) -> tuple[float, float] | None:
    """Shares of multiply-accumulates and of the latency that are left; None where nothing can be removed."""
    model = load(path)
    try:
        result = compress(
            model,
            options.ratio,
            scope=options.scope,
            round_to=options.round_to,
            samples=options.samples,
            threads=threads,
            provider="cpu",
        )
    except NothingToRemove:
        return None
    old, new = (open_session(each, RunOptions("cpu", threads)) for each in (model, result.compressed))
    before, after = latencies(old, new, synthetic_inputs(model, 1, SampleOptions()), []).medians
    return result.report.output.macs / max(result.report.input.macs, 1), after / before


def main() -> None:
    """Print one row for each network, then what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--scope", default="all")
    parser.add_argument("--round-to", type=int, help="by what kernels want, where it is not given")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    columns = [
        f"{what} left ({counted(threads, 'thread')})" for threads in options.threads for what in ("MACs", "latency")
    ]
    print(f"| network | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    found = []
    for path in sorted(path for path in require("realworld").glob("*.onnx") if options.only in path.stem):
        measured = [measure(path, options, threads) for threads in options.threads]
        shares = [share for each in measured if each is not None for share in each]
        cells = [f"{share:.2f}" for share in shares] if len(shares) == len(columns) else ["-"] * len(columns)
        print(f"| {path.stem} | {' | '.join(cells)} |", flush=True)
        found += [shares] if len(shares) == len(columns) else []
    if found:
        print(f"| geometric mean | {' | '.join(f'{mean:.2f}' for mean in np.exp(np.log(found).mean(axis=0)))} |")
        slower = (np.array(found) > SLOWER).sum(axis=0)
        print(f"| above {SLOWER} | {' | '.join(f'{count} of {len(found)}' for count in slower)} |")


if __name__ == "__main__":
    main()
