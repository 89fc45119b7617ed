"""Results are timed, and planned again where they are not as fast as they should be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..budgets import LATENCY, Budget
from ..errors import NothingToRemove, ValidationFailed
from ..restoration.methods import Restored
from ..selection.plan import Plan
from ..selection.planner import Planner
from .records import LayerErrors, Validation

logger = logging.getLogger(__name__)

NOISE = 1.03
"""How much longer a run may seem to take than it does."""


@dataclass(frozen=True)
class Made:
    """A plan and its result. `validation`: None where that was not asked for."""

    plan: Plan
    restored: Restored
    errors: tuple[LayerErrors, ...]
    validation: Validation | None

    @property
    def milliseconds(self) -> float:
        """Of one run, relative to the original."""
        return 1 / self.validation.speedup if self.validation else 1.0


def fast_enough(planner: Planner, make: Callable[[], Made]) -> Made:
    """What `make` makes of the planner's plans: with coarser blocks where the first is not faster than the original, by
    predicted latencies where it is slower, and with corrected predictions where it misses a latency that was asked for.

    Raises NothingToRemove where such a latency is missed twice.
    """
    made = make()
    if made.validation is None:
        return made
    for change, take_back, allowed in (
        (planner.coarsen, planner.refine, 1 / NOISE),
        (planner.hurry, planner.relax, NOISE),
    ):
        if made.milliseconds > allowed and change():
            logger.info("it takes %.3f of the original's time; planning again", made.milliseconds)
            try:
                other = make()
            except (NothingToRemove, ValidationFailed):
                other = made
            if other.milliseconds < made.milliseconds:
                made = other
            else:
                take_back()
    target = next((target for target in planner.options.targets if target.name == LATENCY), None)
    if target is not None and _missed(target, made.validation) > NOISE:
        planner.latency_factor *= _missed(target, made.validation)
        logger.info(
            "it misses %s; planning again, with latencies %.2f of the predicted", target, planner.latency_factor
        )
        made = make()
        if _missed(target, made.validation) > NOISE:
            found = made.validation
            assert found is not None
            raise NothingToRemove(
                f"{planner.analysis.model.name}: {target} was not reached: {found.latency_after_ms:.3g} ms measured, "
                f"original {found.latency_before_ms:.3g} ms; allow {1 / found.speedup:.2f} of the original's, or let "
                "more groups lose units with --scope all"
            )
    return made


def _missed(target: Budget, validation: Validation | None) -> float:
    """The measured latency as a multiple of the target."""
    assert validation is not None
    return validation.latency_after_ms / target.most(validation.latency_before_ms)
