"""Choose what goes: how many units of every group, and which."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..calibration.samples import Calibration
from ..channels.groups import Analysis, ChannelGroup
from ..options import PruneOptions, RunOptions, pattern
from ..progress import Tell, untold
from .criteria import Ranking, RankingTask, criterion_named

Obstacle = Callable[[ChannelGroup], str | None]
"""Why a group has to stay whole; None where its units may go."""


@dataclass(frozen=True)
class Choice:
    """One group's fate. `removed`: bool of shape (units,); `reason`: why nothing may be removed, or None; `criterion`:
    what ranked the units, None where nothing did; `predicted_error`: see `Ranking`."""

    group: ChannelGroup
    removed: np.ndarray
    reason: str | None
    criterion: str | None = None
    predicted_error: float | None = None


@dataclass(frozen=True)
class Plan:
    """All groups' choices, and `kept`: bool of shape (classes,), the label classes that stay."""

    choices: tuple[Choice, ...]
    kept: np.ndarray

    @property
    def removes_nothing(self) -> bool:
        """Whether every channel stays."""
        return bool(self.kept.all())


@dataclass(frozen=True)
class Ranked:
    """A group's ranking and the name of the criterion that it is by."""

    ranking: Ranking
    criterion: str


def rank(
    analysis: Analysis,
    reasons: list[str | None],
    counts: Mapping[int, int],
    options: PruneOptions,
    runtime: RunOptions,
    calibration: Calibration | None,
    tell: Tell = untold,
) -> dict[int, Ranked]:
    """Rank the units of every group without a reason to stay, by group number; `counts`: how many each may lose.

    What the criterion cannot rank is ranked by the one that it falls back to. Raises UsageError where the criterion
    does not apply, MeasurementFailed where activations cannot be measured.
    """
    groups = {number: analysis.groups[number] for number, reason in enumerate(reasons) if reason is None}
    task = RankingTask(analysis, groups, counts, options, runtime, calibration, tell, trying=options.by_sensitivity)
    chosen = criterion_named(options.criterion)
    found = {number: Ranked(ranking, chosen.name) for number, ranking in chosen.rank(task).items()}
    left = {number: group for number, group in groups.items() if number not in found}
    if left and chosen.fallback:
        other = criterion_named(chosen.fallback)
        found |= {n: Ranked(ranking, other.name) for n, ranking in other.rank(replace(task, groups=left)).items()}
    axes = [classes for _, classes in _labelled_axes(analysis)]
    return {number: _sparing_axes(analysis, axes, groups[number], each) for number, each in found.items()}


def _labelled_axes(analysis: Analysis) -> list[tuple[str, np.ndarray]]:
    """Every axis that carries channels, each array of labels once: the first tensor with it, and the label classes."""
    found: dict[int, tuple[str, np.ndarray]] = {}
    for name, axes in analysis.labelling.axes.items():
        for labels in axes:
            if labels is not None:
                found.setdefault(id(labels), (name, labels))
    return [(name, analysis.classes.class_of[labels]) for name, labels in found.values()]


def _sparing_axes(analysis: Analysis, axes: list[np.ndarray], group: ChannelGroup, ranked: Ranked) -> Ranked:
    """The same, but the best unit of each axis that no other group has units on (a part of a Split, say) goes last."""
    importance = np.where(group.free, ranked.ranking.importance, np.inf)
    unit_of = np.full(analysis.classes.count, -1)
    unit_of[group.classes] = np.arange(group.units)
    for classes in axes:
        units = unit_of[classes]
        if units.size and (units >= 0).all() and np.isfinite(importance[units]).all():
            importance[units[np.argmax(importance[units])]] = np.inf
    return replace(ranked, ranking=replace(ranked.ranking, importance=importance))


def choose(
    analysis: Analysis, reasons: list[str | None], ranked: Mapping[int, Ranked], counts: Mapping[int, int]
) -> Plan:
    """Remove the least important units of every group, as many as `counts` says."""
    kept = np.ones(analysis.classes.count, bool)
    ranks = np.zeros(analysis.classes.count)
    for number, group in enumerate(analysis.groups):
        if number not in ranked:
            continue
        order = ranked[number].ranking.order(group.free)
        removed = order[: counts.get(number, 0)]
        ranks[group.classes[order]] = np.arange(group.units)
        kept[group.classes[removed[group.free[removed]]]] = False
    _keep_one_everywhere(analysis, kept, ranks)
    choices = []
    for number, (group, reason) in enumerate(zip(analysis.groups, reasons, strict=True)):
        choice = Choice(group, ~kept[group.classes], reason)
        if number in ranked and choice.removed.any():
            by = ranked[number]
            error = by.ranking.predicted_error(int(choice.removed.sum()))
            choice = replace(choice, criterion=by.criterion, predicted_error=error)
        choices.append(choice)
    return Plan(tuple(choices), kept)


def uniform_counts(analysis: Analysis, reasons: list[str | None], ratio: float, round_to: int = 1) -> dict[int, int]:
    """How many units each group without a reason to stay loses, by its number, where all lose the same share."""
    return {
        number: analysis.groups[number].units - units_kept(analysis.groups[number].units, ratio, round_to)
        for number, reason in enumerate(reasons)
        if reason is None
    }


def reasons_to_leave(
    analysis: Analysis, options: PruneOptions, obstacle: Obstacle = lambda group: None
) -> list[str | None]:
    """Per group, why it is left alone, because of its channels, the options, or an `obstacle` to restoring it; None
    where units may go."""
    include, exclude = pattern("include", options.include), pattern("exclude", options.exclude)
    return [_left_alone(group, options, include, exclude) or obstacle(group) for group in analysis.groups]


def _keep_one_everywhere(analysis: Analysis, kept: np.ndarray, ranks: np.ndarray) -> None:
    """Keep the best-ranked channel of every axis that would lose all of them (a part of a Split, say), in place."""
    for _, classes in _emptied_axes(analysis, kept):
        kept[classes[np.argmax(ranks[classes])]] = True


def emptied(analysis: Analysis, kept: np.ndarray) -> str | None:
    """A tensor that would lose all channels of an axis (a part of a Split, say); None where there is none."""
    return next((name for name, _ in _emptied_axes(analysis, kept)), None)


def _emptied_axes(analysis: Analysis, kept: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Those of the axes of which nothing is kept by the time that they are looked at."""
    return (each for each in _labelled_axes(analysis) if each[1].size and not kept[each[1]].any())


def units_kept(units: int, ratio: float, round_to: int = 1) -> int:
    """How many of `units` stay: floor(units (1 - ratio) + 1e-6), rounded up to a multiple of `round_to`, at least 1.

    >>> units_kept(10, 0.3), units_kept(20, 0.3, round_to=8), units_kept(6, 0.3, round_to=8)
    (7, 16, 6)
    """
    kept = max(1, int(np.floor(units * (1 - ratio) + 1e-6)))
    return min(units, -(-kept // round_to) * round_to)


def _left_alone(
    group: ChannelGroup,
    options: PruneOptions,
    include: re.Pattern[str] | None,
    exclude: re.Pattern[str] | None,
) -> str | None:
    names = [producer.name for producer in group.producers]
    if group.frozen_reason is not None or group.unreadable is not None:
        return group.frozen_reason or group.unreadable
    if group.coupled and options.scope == "chains":
        return "coupled with other producers or branches; --scope all removes such units"
    if include is not None and not any(include.search(name) for name in names):
        return "not matched by --include"
    if exclude is not None and any(exclude.search(name) for name in names):
        return "matched by --exclude"
    return None
