"""What `--scope all` and `--scope chains` remove from each architecture skeleton, as the table of docs/coverage.md.

    python benchmarks/coverage.py [--ratio 0.3] [--only tv_resnet18]

Skeletons get random weights. Every emitted model is run in onnxruntime beside the original whose removed
channels are zero; "error" is the largest difference of an output, relative to that output's largest value.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from material import ROOT, require, zoo

from lbyl_onnx import NothingToRemove, compress, load
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.initializers import unshare
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.selection.plan import choose, rank, reasons_to_leave, uniform_counts

sys.path.insert(0, str(ROOT / "tests"))
from masking import masked

SCOPES = ("all", "chains")


@dataclass(frozen=True)
class Coverage:
    """One skeleton at one scope. `parameters`, `macs`: lost, in per cent; `cut`, `frozen`, `groups`: how many
    channel groups lost units, cannot lose any, and are there; `error`: see the module."""

    parameters: float
    macs: float
    cut: int
    frozen: int
    groups: int
    error: float

    def row(self) -> str:
        """The cells of the table's row."""
        shares = f"{self.parameters:.0f} % | {self.macs:.0f} %"
        return f"{shares} | {self.cut} of {self.groups} | {self.frozen} | {self.error:.0e}"


def cover(model: Model, ratio: float, scope: str) -> Coverage | None:
    """Compress `model` and compare it with its masked original; None where nothing can be removed."""
    try:
        result = compress(model, ratio, scope=scope, criterion="l2", restore="none", validation=False)
    except NothingToRemove:
        return None
    before, after, groups = result.report.input, result.report.output, result.report.groups
    analysis = analyse(working := unshare(model)[0], probe(working))
    chosen = PruneOptions(ratio, criterion="l2", restore="none", scope=scope)
    reasons = reasons_to_leave(analysis, chosen)
    counts = uniform_counts(analysis, reasons, ratio)
    ranked = rank(analysis, reasons, counts, chosen, RunOptions(), None)
    kept = choose(analysis, reasons, ranked, counts).kept
    return Coverage(
        parameters=100 * (1 - after.parameters / before.parameters),
        macs=100 * (1 - after.macs / before.macs),
        cut=sum(group.units_after < group.units_before for group in groups),
        frozen=sum(not group.free.any() for group in analysis.groups),
        groups=len(groups),
        error=difference(masked(analysis, kept, consumers=True), result.compressed, analysis.probe.batch),
    )


def difference(reference: Model, emitted: Model, batch: int) -> float:
    """Largest relative difference of any output; raises ValueError where a shape differs or a value is not finite."""
    inputs = synthetic_inputs(reference, batch, SampleOptions(seed=1))
    expected, found = (run(open_session(model), inputs) for model in (reference, emitted))
    largest = 0.0
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape or not np.isfinite(right).all():
            raise ValueError(f"the output has shape {right.shape}, expected {left.shape}, or is not finite")
        largest = max(largest, float(np.abs(left - right).max() / np.abs(left).max()))
    return largest


def main() -> None:
    """Print one row for each skeleton, scope all on the left and scope chains on the right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--only", default="", help="skeletons whose name contains this")
    options = parser.parse_args()
    columns = [
        f"{name} ({scope})" for scope in SCOPES for name in ("parameters", "MACs", "groups cut", "frozen", "error")
    ]
    print(f"| skeleton | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    materialize = zoo().materialize
    for path in sorted(path for path in require("zoo").glob("*.onnx") if options.only in path.stem):
        model = load(materialize(str(path)))
        cells = [cover(model, options.ratio, scope) for scope in SCOPES]
        rows = [coverage.row() if coverage else "nothing to remove | | | |" for coverage in cells]
        print(f"| {path.stem} | {' | '.join(rows)} |", flush=True)


if __name__ == "__main__":
    main()
