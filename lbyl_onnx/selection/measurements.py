"""What is known of a model's groups: in what order their units go, and what that does to the outputs.

What single cuts do does not add up: a layer that others have left their information to can spare less than before. So
what was measured on a result that has lost part of its units can be told in terms of the whole model (`continued`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..calibration.samples import Calibration
from ..channels.groups import Analysis
from ..options import PruneOptions, RunOptions
from ..progress import Tell, untold
from .criteria import Ranking, Trial
from .plan import Ranked, rank
from .sensitivity import Curve, sensitivities


@dataclass(frozen=True)
class Known:
    """By group number, `ranked`: who goes first; `curves`: what that does to the outputs, none where all groups lose
    the same share."""

    ranked: Mapping[int, Ranked]
    curves: Mapping[int, Curve]


class Measurements:
    """One model's groups, ranked and tried; `most`: how many units each may lose; `followed`: whether heavier cuts were
    measured too. Raises as `rank` and `sensitivities` do."""

    def __init__(
        self,
        analysis: Analysis,
        reasons: list[str | None],
        most: Mapping[int, int],
        options: PruneOptions,
        runtime: RunOptions,
        calibration: Calibration | None,
        tell: Tell = untold,
    ) -> None:
        self.analysis, self._runtime, self._calibration, self._tell = analysis, runtime, calibration, tell
        share = 0.5 if options.by_sensitivity else 1.0
        ranked = rank(
            analysis, reasons, most, options, runtime, calibration, lambda name, done: tell(name, share * done)
        )
        tried = [number for number in ranked if analysis.groups[number].consumers and most[number] > 0]
        self.trials = {number: _trial(analysis, number, ranked[number], most[number]) for number in tried}
        self.followed = not options.by_sensitivity
        near = self._measured({}, lambda name, done: tell(name, share * (1 + done))) if options.by_sensitivity else {}
        self.known = self._near = Known(ranked, near)
        self._far: Mapping[int, Curve] | None = None

    def follow(self) -> None:
        """Know of heavier cuts too, which are measured once."""
        if not self.followed:
            near = self._near.curves
            self._far = self._measured(near, self._tell) if self._far is None else self._far
            self.known, self.followed = replace(self._near, curves={**near, **self._far}), True

    def begin(self) -> None:
        """Know no more than at first."""
        if self._far is not None:
            self.known, self.followed = self._near, False

    def _measured(self, known: Mapping[int, Curve], tell: Tell) -> Mapping[int, Curve]:
        assert self._calibration is not None
        return sensitivities(self.analysis, self.trials, self._calibration, self._runtime, tell, known)


def _trial(analysis: Analysis, number: int, ranked: Ranked, most: int) -> Trial:
    """How a group's units would go by samples of one fold; as they are ranked where no consumer was measured."""
    return ranked.ranking.trial or Trial(ranked.ranking.order(analysis.groups[number].free)[:most], ())


def same_groups(analysis: Analysis, later: Analysis) -> bool:
    """Whether a model that has lost units still has the groups of the one that it was made from."""
    return [group.name for group in analysis.groups] == [group.name for group in later.groups]


def continued(analysis: Analysis, gone: np.ndarray, first: Known, later: Known, left: list[int]) -> Known:
    """What is known of the whole model once `later` was measured on a result whose groups have lost `gone`, int64
    (groups,), the first units of their `first` ranking. `left`: units of its groups; where they do not fit, what was
    known stays."""
    ranked, curves = dict(first.ranked), dict(first.curves)
    for number, group in enumerate(analysis.groups):
        count = int(gone[number])
        if number not in later.ranked or number not in ranked or left[number] != group.units - count:
            continue
        ranked[number] = _ranked_on(group.free, count, ranked[number], later.ranked[number])
        if number in curves and number in later.curves:
            curves[number] = _curve_on(count, curves[number], later.curves[number])
    return Known(ranked, curves)


def _ranked_on(free: np.ndarray, count: int, first: Ranked, later: Ranked) -> Ranked:
    """Those that are gone, then the others as they were ranked later; expected errors add up."""
    order = first.ranking.order(free)[:count]
    left = np.setdiff1d(np.arange(len(free)), order)
    found = later.ranking.importance
    importance = np.empty(len(free))
    importance[order] = np.arange(count) - float(count)
    importance[left] = np.where(np.isfinite(found), np.argsort(np.argsort(found, kind="stable")), np.inf)
    errors = None
    if first.ranking.errors is not None and later.ranking.errors is not None:
        spent = first.ranking.errors[:count]
        errors = np.concatenate([spent, later.ranking.errors + spent[-1:].sum()])
    return replace(later, ranking=Ranking(importance, errors))


def _curve_on(count: int, first: Curve, later: Curve) -> Curve:
    """The first curve as far as units are gone, and the later one from there."""
    if not count:
        return later
    spent = first.at(np.array([count]))
    before = first.removed < count
    removed = np.concatenate([first.removed[before], [count], count + later.removed])
    divergence = np.concatenate([first.divergence[before], spent, spent + later.divergence])
    return Curve(removed, np.maximum.accumulate(divergence))
