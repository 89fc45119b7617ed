"""Bounds from n independent samples that hold with a probability of at least 1 - `error`, whatever the distribution.

Each fails, over the draw of the samples, with a probability of at most `error`; nothing is approximated by a normal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

MOST_NEEDED = 10**8
"""Samples beyond which no number of them is looked for."""
EXPECTED_LOST, EXPECTED_WON = 0.03, 0.02
"""Shares of answers that turn wrong and right at which the two bounds of `accuracy_loss` are compared in advance."""
CLOPPER_PEARSON, BERNSTEIN = "Clopper-Pearson", "empirical Bernstein"


def share_at_most(hits: int, samples: int, error: float) -> float:
    """Upper limit of a share of which `hits` of `samples` were seen: the greatest p under which as few hits have a
    probability above `error` (Clopper and Pearson, Biometrika 26, 1934)."""
    return 1.0 if hits >= samples else float(stats.beta.ppf(1 - error, hits + 1, samples - hits))


def share_at_least(hits: int, samples: int, error: float) -> float:
    """Lower limit of the same."""
    return 0.0 if hits <= 0 else float(stats.beta.ppf(error, hits, samples - hits + 1))


def mean_at_most(values: np.ndarray, low: float, high: float, error: float) -> float:
    """Upper limit of the mean of a quantity that lies in [low, high] by definition; `values`: (samples,).

    Maurer and Pontil, COLT 2009, Theorem 4: mean + sqrt(2 V ln(2 / error) / n) + 7 (high - low) ln(2 / error) /
    (3 (n - 1)), V the unbiased variance. `high` with fewer than two samples.
    """
    if len(values) < 2:
        return high
    variance = float(np.var(values, ddof=1))
    return min(high, float(np.mean(values)) + _bernstein_margin(variance, len(values), high - low, error))


def _bernstein_margin(variance: float, samples: int, width: float, error: float) -> float:
    log = math.log(2 / error)
    return math.sqrt(2 * variance * log / samples) + 7 * width * log / (3 * (samples - 1))


def quantile_rank(samples: int, share: float, error: float) -> int | None:
    """The rank r, from 1, such that at least `share` of the distribution lies at or below the r-th least of the
    samples; None where there are too few for any.

    That sample falls short of the quantile only where r or more samples lie below it, so r is the least rank with
    P(Bin(samples, share) >= r) <= error, which holds for distributions with steps too.
    """
    rank = int(stats.binom.isf(error, samples, share)) + 1  # isf: the least k with P(Bin > k) <= error
    return rank if rank <= samples else None


def samples_for_quantile(share: float, error: float) -> int:
    """The fewest samples of which the greatest bounds the quantile: the least n with share ** n <= error."""
    return math.ceil(math.log(error) / math.log(share) - 1e-12)


def samples_for_share(limit: float, hits: int, error: float) -> int | None:
    """The fewest samples with which `share_at_most` is at most `limit` after so many hits; None beyond MOST_NEEDED."""
    enough = hits + 1
    while share_at_most(hits, enough, error) > limit:
        enough *= 2
        if enough > MOST_NEEDED:
            return None
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if share_at_most(hits, middle, error) > limit else (few, middle)
    return enough


def accuracy_method(samples: int, error: float) -> str:
    """The one of two bounds on a loss of accuracy that would be tighter if EXPECTED_LOST and EXPECTED_WON of the
    answers had turned. It looks at no data, so the bound that it names holds."""
    lost, won = round(EXPECTED_LOST * samples), round(EXPECTED_WON * samples)
    imagined = np.repeat([1.0, -1.0, 0.0], [lost, won, samples - lost - won])
    limits = {name: accuracy_loss_at_most(imagined, error, name) for name in (CLOPPER_PEARSON, BERNSTEIN)}
    return min(limits, key=lambda name: limits[name])


def accuracy_loss_at_most(losses: np.ndarray, error: float, method: str) -> float:
    """Upper limit of the loss of accuracy; `losses`: (samples,) of 1 where an answer turned wrong, -1 where it turned
    right, else 0.

    CLOPPER_PEARSON: the greatest share of the former less the least share of the latter, each with half of the error.
    BERNSTEIN: that of `mean_at_most` on [-1, 1].
    """
    if method == BERNSTEIN:
        return mean_at_most(losses, -1.0, 1.0, error)
    lost, won, count = int((losses > 0).sum()), int((losses < 0).sum()), len(losses)
    return share_at_most(lost, count, error / 2) - share_at_least(won, count, error / 2)
