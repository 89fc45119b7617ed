"""Whether smaller is faster: latency of real networks beside that of what `compress` makes of them.

    python benchmarks/latency.py [--ratio 0.3] [--scope all] [--round-to 1] [--threads 1 2] [--fast] [--only yunet]

Both are timed in turns within one process, so the ratios hold on a noisy machine. `--fast` ranks and restores nothing
by activations: time does not depend on the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lbyl_onnx import NothingToRemove, compress, load  # isort: skip: before numpy, whose threads it keeps from spinning

import numpy as np
from material import require

from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.evaluation.latency import latencies
from lbyl_onnx.model.session import open_session
from lbyl_onnx.options import RunOptions, SampleOptions

SLOWER = 1.03
FAST = {"criterion": "l2", "restore": "none"}


def measure(path: Path, options: argparse.Namespace) -> tuple[float, list[float]] | None:
    """Share of multiply-accumulates left and, for each number of threads, of the latency; None where nothing can be
    removed."""
    model = load(path)
    chosen = FAST if options.fast else {}
    try:
        result = compress(
            model, options.ratio, scope=options.scope, round_to=options.round_to, validation=False, **chosen
        )
    except NothingToRemove:
        return None
    feed = synthetic_inputs(model, 1, SampleOptions())
    ratios = []
    for threads in options.threads:
        sessions = [open_session(each, RunOptions("cpu", threads)) for each in (model, result.compressed)]
        before, after = latencies(*sessions, feed, [])
        ratios.append(after / before)
    return result.report.output.macs / max(result.report.input.macs, 1), ratios


def main() -> None:
    """Print one row for each network, then what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--scope", default="all")
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    columns = [f"latency left ({threads} thread{'s' * (threads > 1)})" for threads in options.threads]
    print(f"| network | MACs left | {' | '.join(columns)} |\n| --- | --- |{' --- |' * len(columns)}")
    found = []
    for path in sorted(path for path in require("realworld").glob("*.onnx") if options.only in path.stem):
        measured = measure(path, options)
        if measured is None:
            print(f"| {path.stem} | nothing to remove |{' |' * len(columns)}", flush=True)
            continue
        macs, ratios = measured
        found.append([macs, *ratios])
        print(f"| {path.stem} | {100 * macs:.0f} % | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
    if found:
        macs, *means = np.exp(np.log(found).mean(axis=0))
        slower = (np.array(found)[:, 1:] > SLOWER).sum(axis=0)
        print(f"| geometric mean | {100 * macs:.0f} % | {' | '.join(f'{mean:.2f}' for mean in means)} |")
        print(f"| slower than {SLOWER} | | {' | '.join(f'{count} of {len(found)}' for count in slower)} |")


if __name__ == "__main__":
    main()
