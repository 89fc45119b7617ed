"""One threshold for the units of all groups together, and where it lies in a distribution of two modes.

Networks that are trained to be pruned (`lbyl_onnx.training`) have scales of BatchNormalization that lie near 0 or far
from it; what lies near 0 can go in one step (Liu et al., ICCV 2017; Suteu and Guo, arXiv 2204.06404).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import binom

from ..errors import NothingToRemove, counted
from .criteria import criterion_named
from .plan import Ranked, units_kept

Scores = Mapping[int, np.ndarray]
"""By group number, float64 (units,): what units are worth, to be compared across groups; inf for those that stay."""

FLOOR = 1e-3
"""Share of the mean score below which all are the same: nothing."""
LEAST_FACTOR = 4.0
"""How many times larger units of the upper mode are, in the geometric mean."""
LEAST_SHARE = 0.05
"""Share of the units that either mode has at least."""
BETWEEN = 1 / 8
"""Share of a single mode's units that lie in the middle third between the means of its halves, at least: 0.17 of a
uniform distribution, 0.21 of a normal, 0.14 of an exponential one."""
SIGNIFICANCE = 0.01
"""Probability below which so few units there are taken for a gap."""
DECADES = 4


def comparable_scores(ranked: Mapping[int, Ranked]) -> Scores:
    """Scores of ranked units. Criteria that cannot be compared between layers are divided by the mean of each layer's;
    the best unit of a group that might lose all of them stays."""
    found = {}
    for number, each in ranked.items():
        scores = each.ranking.importance.astype(np.float64)
        finite = np.isfinite(scores)
        if not finite.any():
            continue
        mean = scores[finite].mean()
        if not criterion_named(each.criterion).comparable and mean > 0:
            scores = scores / mean
        if finite.all():
            scores[np.argmax(scores)] = np.inf
        found[number] = scores
    return found


def global_counts(scores: Scores, groups: int, ratio: float, round_to: int = 1) -> np.ndarray:
    """Units that each of `groups` loses, int64 (groups,), where the lowest share `ratio` of all units goes, ties in the
    order of groups and units. What stays of a group is rounded up to a multiple of `round_to`."""
    counts = np.zeros(groups, np.int64)
    if not scores:
        return counts
    numbers = np.concatenate([np.full(len(each), number) for number, each in scores.items()])
    values = np.concatenate(list(scores.values()))
    lowest = np.argsort(values, kind="stable")[: int(np.floor(len(values) * ratio + 1e-6))]
    gone = np.bincount(numbers[lowest[np.isfinite(values[lowest])]], minlength=groups)
    for number, each in scores.items():
        counts[number] = len(each) - units_kept(len(each), gone[number] / len(each), round_to)
    return counts


def ratio_below_gap(scores: Scores, name: str) -> float:
    """The share of units below the gap between two modes. Raises NothingToRemove where there is none; `name` is the
    model's."""
    values = np.concatenate([*scores.values(), np.zeros(0)])
    finite = values[np.isfinite(values)]
    below = units_below_gap(finite)
    if below is None:
        raise NothingToRemove(
            f"{name}: --ratio auto finds no gap between units that matter and units that do not: {_in_words(finite)}; "
            "give a share such as --ratio 0.3, or train with lbyl_onnx.training"
        )
    return below / len(values)


def units_below_gap(scores: np.ndarray) -> int | None:
    """How many of the scores, float64 (units,) of at least 0, make up the lower one of two modes; None where they are
    of one mode.

    Otsu's threshold (IEEE Trans. SMC 1979) of the logarithms halves them where the variance between the halves is
    greatest. They are two modes if fewer units lie in the middle third between the halves' means than in any single
    mode, by a binomial test, each half has its share, and the upper one is several times larger.
    """
    if len(scores) < 2 or scores.max() <= 0:
        return None
    levels = np.sort(np.log(np.maximum(scores, FLOOR * scores.mean())))
    count, sizes = len(levels), np.arange(1, len(levels))
    sums = np.cumsum(levels)
    low, high = sums[:-1] / sizes, (sums[-1] - sums[:-1]) / (count - sizes)
    cut = int(np.argmax(sizes * (count - sizes) * (high - low) ** 2))
    below, distance = int(sizes[cut]), high[cut] - low[cut]
    between = np.count_nonzero((levels > low[cut] + distance / 3) & (levels < high[cut] - distance / 3))
    apart = distance >= np.log(LEAST_FACTOR) and min(below, count - below) >= LEAST_SHARE * count
    return below if apart and binom.cdf(between, count, BETWEEN) < SIGNIFICANCE else None


def _in_words(scores: np.ndarray) -> str:
    """How many scores there are in each decade below the largest."""
    if not scores.size or scores.max() <= 0:
        return f"of {counted(len(scores), 'unit')} none has a score above 0"
    ends = scores.max() * 10.0 ** np.arange(0, -DECADES, -1)
    told = [
        f"{np.count_nonzero((scores <= high) & (scores > low))} from {low:.2g} to {high:.2g}"
        for high, low in zip(ends, [*ends[1:], -1.0], strict=True)
    ]
    told[-1] = f"{np.count_nonzero(scores <= ends[-1])} below"
    return f"of {counted(len(scores), 'unit')} have a score {', '.join(told)}"
