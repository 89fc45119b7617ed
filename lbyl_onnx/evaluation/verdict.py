"""What a comparison means, in words, and whether it keeps the limits that a user has set."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ValidationFailed
from ..options import Limits
from .records import OutputComparison, Validation, Verdict

INTACT, WORN, DAMAGED, RUINED = "intact", "worn", "damaged", "ruined"
LOSSES = ((0.30, RUINED), (0.10, DAMAGED), (0.03, WORN), (-1.0, INTACT))
"""Expected losses of accuracy from which on a classifier is called so (`benchmarks/expected_loss.py`)."""
DECIBELS = ((3.0, RUINED), (10.0, DAMAGED), (20.0, WORN), (float("inf"), INTACT))
"""Ratios of what tells samples apart to error below which another output is called so."""
ROUNDING = 1e-9
"""Points by which a result that just keeps a limit may seem to break it."""
ADVICE = "; ask for less, or give own samples with --calibration"
"""What to do about a compression that breaks a limit."""


def verdict(
    outputs: Sequence[OutputComparison], accuracies: tuple[float | None, float | None] = (None, None)
) -> Verdict | None:
    """What the outputs say together: the worst of them. `accuracies`: before and after, in [0, 1], where they were
    measured, which then count in place of the expected loss."""
    before, after = accuracies
    drop = None if before is None or after is None else before - after
    found = [_of_output(output, drop) for output in outputs]
    order = (RUINED, DAMAGED, WORN, INTACT)
    return min(found, key=lambda each: order.index(each.level), default=None)


def _of_output(output: OutputComparison, drop: float | None) -> Verdict:
    answers = output.answers
    if answers is not None:
        if drop is not None:
            return Verdict(_level(drop), f"it lost {100 * drop:.1f} points of accuracy")
        lost, low, high = (100 * each for each in (answers.expected_loss, *answers.expected_loss_interval))
        reason = (
            f"it is expected to lose {lost:.1f} points of accuracy ({low:.1f} to {high:.1f}), and "
            f"{100 * answers.agreement:.0f} % of its answers are the original's"
        )
        return Verdict(_level(answers.expected_loss), reason)
    level = next(level for limit, level in DECIBELS if output.told_db < limit or limit == float("inf"))
    kept = "what tells samples apart" if output.told_db == output.variation_db else "signal"
    reason = f"output {output.name!r} keeps {output.told_db:.1f} dB of {kept} over error"
    if output.positions is not None:
        reason += f", and {100 * output.positions.agreement:.1f} % of its answers are the original's"
    return Verdict(level, reason)


def _level(loss: float) -> str:
    return next(level for limit, level in LOSSES if loss >= limit)


def check_limits(validation: Validation, limits: Limits, advice: str = ADVICE) -> None:
    """Raise ValidationFailed, which ends with the `advice`, where a result breaks one of the limits; also where one
    cannot be checked."""
    if limits.min_agreement is not None:
        agreements = [output.top1_agreement for output in validation.outputs]
        found = [agreement for agreement in agreements if agreement is not None]
        if not found:
            raise ValidationFailed("no output looks like classes, so --min-agreement cannot be checked; use --min-sqnr")
        if 100 * min(found) < limits.min_agreement - ROUNDING:
            raise ValidationFailed(
                f"only {100 * min(found):.1f} % of top-1 answers agree, --min-agreement is {limits.min_agreement:g}"
                + advice
            )
    if limits.min_sqnr is not None:
        if not validation.outputs:
            raise ValidationFailed("no output can be compared, so --min-sqnr cannot be checked")
        for output in validation.outputs:
            if output.sqnr_db < limits.min_sqnr:
                raise ValidationFailed(
                    f"output {output.name!r} keeps {output.sqnr_db:.1f} dB, --min-sqnr is {limits.min_sqnr:g}{advice}"
                )
    if limits.max_drop is not None:
        before, after = validation.accuracy_before, validation.accuracy_after
        if before is None or after is None:
            raise ValidationFailed("no output looks like classes, so --max-drop cannot be checked")
        if 100 * (before - after) > limits.max_drop + ROUNDING:
            raise ValidationFailed(
                f"accuracy falls from {100 * before:.1f} to {100 * after:.1f} %, --max-drop is {limits.max_drop:g}"
                + advice
            )
