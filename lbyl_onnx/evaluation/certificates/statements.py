"""What is claimed of new samples: one bound for each quantity, all of which hold together with one confidence.

How many statements there are, of which kind and by which method is settled by the model's outputs, the number of
samples and whether there are labels, never by what the samples show; so each may spend its part of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import (
    accuracy_loss_at_most,
    accuracy_method,
    mean_at_most,
    quantile_rank,
    samples_for_quantile,
    share_at_most,
)

CHANGED, MEAN, QUANTILE, ACCURACY = "changed top-1", "mean gap", "quantile of the gap", "loss of accuracy"
SHARES = (0.99, 0.95, 0.9, 0.75, 0.5)
"""Shares of inputs that a quantile is stated for: the first for which there are enough samples."""


@dataclass(frozen=True)
class Gaps:
    """How far one output moves, sample by sample.

    `gap`: float64 (samples,), at least 0, infinite where the result is not finite and the original is; `measure`: what
    it is, in words. `most`: what it cannot exceed by definition; None where there is no such bound, and `unbounded`
    says why. `changed`: bool (samples,), whether the class of the highest score is another one; `losses`: int
    (samples,), 1 where an answer turned wrong and -1 where it turned right. Both None without classes, or labels.
    """

    output: str
    measure: str
    gap: np.ndarray
    most: float | None = None
    unbounded: str = ""
    changed: np.ndarray | None = None
    losses: np.ndarray | None = None


@dataclass(frozen=True)
class Statement:
    """One bound on new samples. `quantity`: CHANGED, MEAN, QUANTILE or ACCURACY; `measure`: what of the output moves;
    `share`: of the inputs, for a quantile. `bound`: what is not exceeded, None where nothing is claimed, for the
    `reason` given; `observed`: the same on the samples themselves; `error`: the probability with which this one may
    fail; `method`: what it rests on; `needed`: samples that a quantile of SHARES[0] takes, None where there are enough.
    """

    quantity: str
    output: str
    measure: str
    bound: float | None = None
    observed: float | None = None
    error: float | None = None
    method: str | None = None
    share: float | None = None
    needed: int | None = None
    reason: str | None = None


def shared_error(confidence: float, statements: int) -> float:
    """The error that each of several statements may have for all of them to hold with `confidence` (Bonferroni)."""
    return (1 - confidence) / max(statements, 1)


def state(outputs: Sequence[Gaps], samples: int, confidence: float, withdrawn: int = 0) -> tuple[Statement, ...]:
    """All statements on `samples` samples, which together fail with a probability of at most 1 - `confidence`.
    `withdrawn`: outputs of which the samples showed that nothing can be stated, which keep their part of the error."""
    kinds = [(output, quantity) for output in outputs for quantity in _claimed(output)]
    error = shared_error(confidence, len(kinds) + len(_STATED) * withdrawn)
    found = [_STATED[quantity](output, samples, error) for output, quantity in kinds]
    return (*found, *(_not_claimed(output) for output in outputs if output.most is None))


def _claimed(output: Gaps) -> list[str]:
    found = [CHANGED] if output.changed is not None else []
    found += [MEAN] if output.most is not None else []
    found += [QUANTILE]
    return found + ([ACCURACY] if output.losses is not None else [])


def _changed(output: Gaps, samples: int, error: float) -> Statement:
    assert output.changed is not None
    hits = int(output.changed.sum())
    bound = share_at_most(hits, samples, error)
    return Statement(CHANGED, output.output, "top-1", bound, hits / samples, error, "Clopper-Pearson")


def _mean(output: Gaps, samples: int, error: float) -> Statement:
    assert output.most is not None
    values = np.minimum(output.gap, output.most)
    bound = mean_at_most(values, 0.0, output.most, error)
    return Statement(
        MEAN, output.output, output.measure, bound, float(values.mean()), error, "empirical Bernstein (Maurer, Pontil)"
    )


def _quantile(output: Gaps, samples: int, error: float) -> Statement:
    ranks = ((share, quantile_rank(samples, share, error)) for share in SHARES)
    share, rank = next(((share, rank) for share, rank in ranks if rank is not None), (SHARES[0], None))
    needed = samples_for_quantile(SHARES[0], error)
    words = QUANTILE, output.output, output.measure
    if rank is None:
        least = samples_for_quantile(SHARES[-1], error)
        reason = f"{samples} samples are too few: {SHARES[-1]:.0%} take {least}, {SHARES[0]:.0%} take {needed}"
        return Statement(*words, error=error, share=share, needed=needed, reason=reason)
    ordered = np.sort(output.gap)
    bound, seen = float(ordered[rank - 1]), float(ordered[int(np.ceil(share * samples)) - 1])
    missing = needed if share < SHARES[0] else None
    if not np.isfinite(bound):
        reason = "too many samples move without bound"
        return Statement(*words, error=error, share=share, needed=missing, reason=reason)
    return Statement(*words, bound, seen, error, f"order statistic {rank} of {samples}", share, missing)


def _accuracy(output: Gaps, samples: int, error: float) -> Statement:
    assert output.losses is not None
    method = accuracy_method(samples, error)
    bound = accuracy_loss_at_most(output.losses, error, method)
    told = f"{method}, chosen by {samples} samples alone"
    return Statement(ACCURACY, output.output, "accuracy", bound, float(output.losses.mean()), error, told)


def _not_claimed(output: Gaps) -> Statement:
    return Statement(MEAN, output.output, output.measure, reason=output.unbounded)


_STATED = {CHANGED: _changed, MEAN: _mean, QUANTILE: _quantile, ACCURACY: _accuracy}
