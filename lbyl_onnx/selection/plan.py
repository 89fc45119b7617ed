"""Choose what goes: how many units of every group, and which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..channels.folding import LayerReader
from ..channels.groups import Analysis, ChannelGroup
from ..errors import UsageError
from .importance import importance


@dataclass(frozen=True)
class Selection:
    """Options of the choice. `ratio` in [0, 1): share of units to remove; `scope`: "chains" or "all"; `round_to`:
    keep a multiple of this many units; `include`, `exclude`: regular expressions searched in producers' node
    names."""

    ratio: float
    criterion: str = "l2"
    scope: str = "chains"
    round_to: int = 1
    include: str | None = None
    exclude: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Choice:
    """One group's fate. `removed`: bool of shape (units,); `reason`: why nothing may be removed, or None."""

    group: ChannelGroup
    removed: np.ndarray
    reason: str | None


@dataclass(frozen=True)
class Plan:
    """All groups' choices, and `kept`: bool of shape (classes,), the label classes that stay."""

    choices: tuple[Choice, ...]
    kept: np.ndarray

    @property
    def removes_nothing(self) -> bool:
        """Whether every channel stays."""
        return bool(self.kept.all())


def choose(analysis: Analysis, selection: Selection, ranking: Mapping[int, np.ndarray] | None = None) -> Plan:
    """Rank every group's units by the criterion and remove the least important ones.

    `ranking`: importance of the units, float64 (units,), by group number, for criteria that are measured on
    activations; groups without fall back to `l2`. Raises UsageError for a regular expression that does not compile
    and where the criterion does not apply.
    """
    reader = LayerReader(analysis.model)
    rng = np.random.default_rng(selection.seed)
    kept = np.ones(analysis.classes.count, bool)
    ranks = np.zeros(analysis.classes.count)
    criterion = "l2" if selection.criterion == "obs" else selection.criterion
    reasons = reasons_to_leave(analysis, selection)
    for index, (group, reason) in enumerate(zip(analysis.groups, reasons, strict=True)):
        if reason is not None:
            continue
        ranked = (ranking or {}).get(index)
        scores = importance(group, reader, criterion, rng) if ranked is None else ranked
        scores = np.where(group.free, scores, np.inf)
        count = units_kept(group.units, selection.ratio, selection.round_to)
        removed = np.argsort(scores, kind="stable")[: group.units - count]
        ranks[group.classes] = np.argsort(np.argsort(scores))
        kept[group.classes[removed[group.free[removed]]]] = False
    _keep_one_everywhere(analysis, kept, ranks)
    choices = tuple(
        Choice(group, ~kept[group.classes], reason) for group, reason in zip(analysis.groups, reasons, strict=True)
    )
    return Plan(choices, kept)


def reasons_to_leave(analysis: Analysis, selection: Selection) -> list[str | None]:
    """Per group, why the options leave it alone; None where units may go."""
    include, exclude = compile_pattern("include", selection.include), compile_pattern("exclude", selection.exclude)
    return [_left_alone(group, selection, include, exclude) for group in analysis.groups]


def _keep_one_everywhere(analysis: Analysis, kept: np.ndarray, ranks: np.ndarray) -> None:
    """Keep the best-ranked channel of every axis that would lose all of them (a part of a Split, say), in place."""
    arrays = {id(labels): labels for axes in analysis.labelling.axes.values() for labels in axes if labels is not None}
    for labels in arrays.values():
        classes = analysis.classes.class_of[labels]
        if classes.size and not kept[classes].any():
            kept[classes[np.argmax(ranks[classes])]] = True


def units_kept(units: int, ratio: float, round_to: int = 1) -> int:
    """How many of `units` stay: floor(units (1 - ratio) + 1e-6), rounded up to a multiple of `round_to`, at least 1.

    >>> units_kept(10, 0.3), units_kept(20, 0.3, round_to=8), units_kept(6, 0.3, round_to=8)
    (7, 16, 6)
    """
    kept = max(1, int(np.floor(units * (1 - ratio) + 1e-6)))
    return min(units, -(-kept // round_to) * round_to)


def compile_pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    """The regular expression of an option; UsageError where it does not compile."""
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--{option} {text!r} is not a regular expression: {error}") from error


def _left_alone(
    group: ChannelGroup,
    selection: Selection,
    include: re.Pattern[str] | None,
    exclude: re.Pattern[str] | None,
) -> str | None:
    names = [producer.name for producer in group.producers]
    if group.frozen_reason is not None:
        return group.frozen_reason
    if group.coupled and selection.scope == "chains":
        return "coupled with other producers or branches; --scope all removes such units"
    if include is not None and not any(include.search(name) for name in names):
        return "not matched by --include"
    if exclude is not None and any(exclude.search(name) for name in names):
        return "matched by --exclude"
    return None
