"""How often certificates and bounds fail, and how loose they are: tables of docs/certificates.md and docs/bounds.md.

    python benchmarks/certificates.py [--draws 1000]

Certificates are made over distributions of which the truth is known, bounds over random prunings of networks; the table
of LeNet-300-100 needs the shared measuring material and is left out without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from unittest import mock

import numpy as np
from material import ROOT, SHARED

from lbyl_onnx import Model, load
from lbyl_onnx.bounds import (
    UNITS,
    WEIGHTS,
    as_chosen,
    at_random,
    greatest_share,
    read_stretch,
    removed_of,
    without_smallest_units,
    without_smallest_weights,
)
from lbyl_onnx.evaluation.certificates import statements
from lbyl_onnx.evaluation.certificates.statements import ACCURACY, CHANGED, MEAN, QUANTILE
from lbyl_onnx.options import RunOptions

sys.path.insert(0, str(ROOT / "tests"))
from certificate_draws import WORLDS, tally
from pruned_draws import Inputs, PrunedNetwork, fashion

CONFIDENCE = 0.95
QUANTITIES = (CHANGED, MEAN, QUANTILE, ACCURACY)
SIZES = (200, 1000, 5000)
SHARES = (0.05, 0.1, 0.3, 0.5)
DELTA = 0.05
SAMPLES = 200


def certificates(draws: int) -> Iterator[str]:
    """A table of failures and looseness."""
    yield f"| distribution | samples | failed, at most {1 - CONFIDENCE:.0%} | {' | '.join(QUANTITIES)} |"
    yield "| --- " * (3 + len(QUANTITIES)) + "|"
    for name, world in WORLDS.items():
        for samples in SIZES:
            found = tally([world], samples, CONFIDENCE, draws)
            loose = (found.looseness.get(quantity) for quantity in QUANTITIES)
            cells = ("-" if not each else f"{np.median(each):.2f}" for each in loose)
            yield f"| {name} | {samples:,} | {found.failed / draws:.1%} | {' | '.join(cells)} |"


def union_bound(draws: int) -> Iterator[str]:
    """The same certificate of three outputs with its error shared and, cheated, not shared."""
    worlds = [WORLDS["smooth"]] * 3
    yield f"12 statements at {CONFIDENCE:.0%}: {tally(worlds, 1000, CONFIDENCE, draws).failed / draws:.1%} failed"
    with mock.patch.object(statements, "shared_error", lambda confidence, count: 1 - confidence):
        cheated = tally(worlds, 1000, CONFIDENCE, draws)
    yield f"12 statements, each at {CONFIDENCE:.0%} alone: {cheated.failed / draws:.1%} failed"


def bounds(model: Model, inputs: Inputs, draws: int) -> Iterator[str]:
    """A table of bounds for units and weights that are drawn or the smallest, beside what came of them."""
    stretch = read_stretch(model, inputs, RunOptions("cpu"))
    network = PrunedNetwork(model, inputs, stretch)
    size = float(np.sqrt((network.output**2).sum(axis=1).mean()))
    yield f"Root mean square of the output: {size:.3g}, {stretch.samples} samples, {draws} draws."
    yield ""
    yield "| what goes | share | bound | measured | times | bound of 95 % of the draws | measured | draws above |"
    yield "| --- " * 8 + "|"
    for what in (UNITS, WEIGHTS):
        for share in SHARES:
            removed = removed_of(stretch, share, what)
            bound, gaps = at_random(stretch, removed, what), network.gaps(removed, what, draws)
            root = float(np.sqrt((gaps**2).mean()))
            limit, above = bound.gap(DELTA), (gaps > bound.gap(DELTA)).mean()
            yield (
                f"| {what} at random | {share:.0%} | {bound.root:.3g} | {root:.3g} | {bound.root / root:.1f} | "
                f"{limit:.3g} | {np.quantile(gaps, 1 - DELTA):.3g} | {above:.1%} |"
            )
    for what, smallest in ((UNITS, without_smallest_units), (WEIGHTS, without_smallest_weights)):
        for share in SHARES:
            weights = smallest(stretch, removed_of(stretch, share, what))
            root, measured = as_chosen(stretch, weights).root, network.gap(weights)
            cells = f"{share:.0%} | {root:.3g} | {measured:.3g} | {root / measured:.1f}"
            yield f"| smallest {what} | {cells} | | | |"
    yield ""
    allowed = ", ".join(f"{what} {greatest_share(stretch, size / 2, DELTA, what):.1%}" for what in (UNITS, WEIGHTS))
    yield f"Greatest share with a gap above half the output's size in at most {DELTA:.0%} of the draws: {allowed}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        digits = {"image": data["image"][:SAMPLES]}
    tables = [certificates(draws), union_bound(draws)]
    tables.append(bounds(load(ROOT / "models" / "digits_cnn_folded.onnx"), digits, draws))
    if (SHARED / "models").exists():
        network, images = fashion(SHARED.joinpath, SAMPLES)
        tables.append(bounds(network, images, draws))
    for table in tables:
        for line in table:
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
