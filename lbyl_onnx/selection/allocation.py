"""Spend budgets along the groups' sensitivities: who loses how many units, so that the outputs lose least.

Divergences of single groups are taken to add up. Costs do not: a producer that loses filters makes its consumers
cheaper, so every step is priced with all that has gone before. Greedy steps of least divergence for what they save,
over any number of levels at once, end where all budgets hold; then steps are taken back, the dearest first, as long as
they still do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .sensitivity import Curve

Cost = Callable[[np.ndarray], np.ndarray]
"""Gives the cost, float64 (...,), once units are removed, (..., groups)."""
MOST_LEVELS = 32
"""Numbers of units that are considered for each group."""


@dataclass(frozen=True)
class Limit:
    """A budget: `cost` may be `most`. `name`: as users call it."""

    name: str
    cost: Cost
    most: float


class OutOfReach(Exception):
    """A budget is below what is left once all groups have lost as much as they may: `limit`, and `least`, the nearest
    value that can be reached."""

    def __init__(self, limit: Limit, least: float) -> None:
        super().__init__(f"{limit.name} cannot be below {least:.4g}")
        self.limit, self.least = limit, least


def levels(units: int, most: int, block: int) -> np.ndarray:
    """Numbers of units that a group may lose, int64, ascending from 0: up to `most`, so that a multiple of `block`
    stays, and not more than about MOST_LEVELS of them."""
    kept = np.arange(block, units, block)
    removed = units - kept[kept >= units - most][::-1]
    thinned = removed[:: -(-len(removed) // MOST_LEVELS) or 1]
    return np.concatenate([[0], thinned]).astype(np.int64)


def allocate(
    curves: Mapping[int, Curve], choices: Mapping[int, np.ndarray], groups: int, limits: list[Limit]
) -> np.ndarray:
    """Units that each of `groups` groups loses, int64 (groups,), so that every limit holds.

    `curves`, and `choices`, numbers of units that may go (`levels`): of the groups that may lose some. Raises
    OutOfReach.
    """
    steps = _Steps(curves, choices, groups)
    removed = np.zeros(groups, np.int64)
    while True:
        excess = np.array([float(limit.cost(removed)) - limit.most for limit in limits])
        if (excess <= 0).all():
            return _given_back(steps, removed, limits)
        rows = steps.beyond(removed)
        if not len(rows.removed):
            worst = int((excess / [max(limit.most, 1e-9) for limit in limits]).argmax())
            raise OutOfReach(limits[worst], float(limits[worst].cost(removed)))
        saved = np.zeros(len(rows.removed))
        for limit, over in zip(limits, excess, strict=True):
            if over > 0:
                saved += np.clip((over + limit.most - limit.cost(rows.removed)) / over, 0, 1)
        price = np.where(saved > 0, rows.added / np.maximum(saved, np.finfo(np.float64).tiny), np.inf)
        best = int(price.argmin())
        if not np.isfinite(price[best]):
            best = int(rows.added.argmin())
        removed = rows.removed[best]


@dataclass(frozen=True)
class _Rows:
    """Possible states, `removed`, int64 (states, groups), and the divergence that each adds to the present one."""

    removed: np.ndarray
    added: np.ndarray


class _Steps:
    """Steps from one state to the next: of one group, to any other of its levels."""

    def __init__(self, curves: Mapping[int, Curve], choices: Mapping[int, np.ndarray], groups: int) -> None:
        numbers = [number for number in curves if number in choices]
        counts = [choices[number] for number in numbers]
        self._group = np.repeat(numbers, [len(each) for each in counts]).astype(np.int64)
        self._count = np.concatenate([*counts, np.empty(0, np.int64)]).astype(np.int64)
        each = [curves[number].at(found) for number, found in zip(numbers, counts, strict=True)]
        self._divergence = np.concatenate([*each, np.empty(0)])
        usable = np.isfinite(self._divergence)
        self._group, self._count, self._divergence = (
            array[usable] for array in (self._group, self._count, self._divergence)
        )
        self._groups = groups

    def beyond(self, removed: np.ndarray) -> _Rows:
        """All steps that remove more."""
        return self._rows(removed, self._count > removed[self._group])

    def below(self, removed: np.ndarray) -> _Rows:
        """All steps that give back."""
        return self._rows(removed, self._count < removed[self._group])

    def _rows(self, removed: np.ndarray, chosen: np.ndarray) -> _Rows:
        groups, counts = self._group[chosen], self._count[chosen]
        states = np.repeat(removed[None], len(groups), axis=0)
        states[np.arange(len(groups)), groups] = counts
        present = np.zeros(self._groups)
        at = self._count == removed[self._group]
        present[self._group[at]] = self._divergence[at]
        return _Rows(states, self._divergence[chosen] - present[groups])


def _given_back(steps: _Steps, removed: np.ndarray, limits: list[Limit]) -> np.ndarray:
    while True:
        rows = steps.below(removed)
        if not len(rows.removed):
            return removed
        holds = np.all([limit.cost(rows.removed) <= limit.most for limit in limits], axis=0)
        gain = np.where(holds, -rows.added, -np.inf)
        best = int(gain.argmax())
        if gain[best] < 0:
            return removed
        removed = rows.removed[best]
