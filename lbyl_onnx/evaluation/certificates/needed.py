"""How many samples a certificate takes, before any are gathered."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from .certify import check_confidence
from .intervals import samples_for_quantile, samples_for_share
from .statements import shared_error

HITS = (0, 1, 2, 5, 10, 20, 50)
USUAL = 4
"""Statements that a classifier with labels gets: changed top-1, mean and quantile of the gap, loss of accuracy."""


@dataclass(frozen=True)
class SamplesNeeded:
    """What it takes to state with `confidence` that at most the share `limit` of new inputs change their top-1, and
    that all but that share move by no more than the largest gap seen. `changed`: for some numbers of changed samples
    how many samples it takes, as the only statement, and as one of USUAL that hold together (None: over 100 million);
    `quantile`: the same two numbers for the gap."""

    limit: float
    confidence: float
    changed: tuple[tuple[int, int | None, int | None], ...]
    quantile: tuple[int, int]


def samples_needed(limit: float, confidence: float = 0.99) -> SamplesNeeded:
    """How many independent samples it takes to bound a share by `limit`, in (0, 1), with `confidence`.

    Raises UsageError where one of them is out of range.
    """
    check_confidence(confidence)
    if not isinstance(limit, int | float) or not 0 < limit < 1:
        raise UsageError(f"is {limit}; expected a share above 0 and below 1, such as 0.01", "plan")
    alone, together = (shared_error(confidence, count) for count in (1, USUAL))
    changed = tuple(
        (hits, samples_for_share(limit, hits, alone), samples_for_share(limit, hits, together)) for hits in HITS
    )
    quantile = samples_for_quantile(1 - limit, alone), samples_for_quantile(1 - limit, together)
    return SamplesNeeded(limit, confidence, changed, quantile)
