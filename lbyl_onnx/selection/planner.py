"""From budgets to plans: who loses how many units, by sensitivity, all alike, or by one threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..budgets import DROP, LATENCY, Budget
from ..calibration.samples import Calibration
from ..channels.costs import CostModel
from ..channels.groups import Analysis, ChannelGroup
from ..errors import NothingToRemove
from ..model.providers import block_of
from ..options import AUTO_RATIO, GLOBAL, PruneOptions, RunOptions
from ..progress import Tell, untold
from .allocation import Cost, Limit, OutOfReach, allocate, levels
from .global_threshold import comparable_scores, global_counts, ratio_below_gap
from .latency_model import LatencyModel
from .measurements import Known, Measurements, continued, same_groups
from .plan import Plan, choose, uniform_counts

RATIO = "ratio"
MOST_REMOVED = 0.875
"""Share of a group's units that may go."""
SMALL_BLOCKS = (8, 4)
"""Blocks for groups of fewer than LEAST_BLOCKS of the kernels' own."""
LEAST_BLOCKS = 4
SMALLEST_GROUP = 8
"""Units below which a group is left whole, unless a rounding is asked for."""
FASTER = 0.95
"""Share of the original's latency that a result may take where a first one turned out slower."""
HALVINGS = 12
"""Steps in which the one ratio that meets a budget is found."""


class Planner:
    """Ranked groups, what their units are worth to the output, and what everything costs.

    `latency_factor`: by how much measured latencies are longer than predicted ones. Raises MeasurementFailed where
    activations cannot be measured.
    """

    def __init__(
        self,
        analysis: Analysis,
        reasons: list[str | None],
        options: PruneOptions,
        runtime: RunOptions,
        calibration: Calibration | None,
        tell: Tell = untold,
    ) -> None:
        self.analysis, self.reasons, self.options, self.runtime = analysis, reasons, options, runtime
        self.costs = CostModel(analysis)
        self._none = np.zeros(len(analysis.groups), np.int64)
        self._latency: LatencyModel | None = None
        self.latency_factor = 1.0
        self._coarse, self._hurried = False, False
        self._ratio = None if isinstance(options.ratio, str) else options.ratio
        exact = not options.by_sensitivity and options.allocation != GLOBAL and not options.targets
        most = uniform_counts(analysis, reasons, self._ratio or 0.0, options.round_to or 1) if exact else self._most()
        self._calibration, self._tell = calibration, tell
        self._first = Measurements(analysis, reasons, most, options, runtime, calibration, tell)
        self._last, self._gone = self._first, self._none
        if options.ratio == AUTO_RATIO:
            self._ratio = ratio_below_gap(comparable_scores(self.known.ranked), analysis.model.name)

    def begin(self, targets: tuple[Budget, ...]) -> None:
        """Plan for other targets from here on, as if there had been none before; what was measured of the model itself
        is kept."""
        self.options = replace(self.options, targets=targets)
        self.latency_factor, self._coarse, self._hurried = 1.0, False, False
        self._first.begin()
        self._last, self._gone = self._first, self._none

    def plan(self, targets: Sequence[Budget]) -> Plan:
        """A plan within the ratio that was asked for and all `targets`. Raises NothingToRemove where one is out of
        reach."""
        try:
            return self.plan_of(self.counts(self.limits(targets)))
        except OutOfReach as error:
            limit = error.limit
            unit = " ms" if limit.name == LATENCY else ""
            raise NothingToRemove(
                f"{self.analysis.model.name}: {limit.name} cannot be brought to {limit.most:,.6g}{unit}; "
                f"the least within reach is {error.least:,.6g}{unit}{self._shares(limit, error.least)}"
            ) from None

    def plan_of(self, counts: np.ndarray) -> Plan:
        """The plan that removes so many units of each group."""
        return choose(self.analysis, self.reasons, self.known.ranked, dict(enumerate(counts.tolist())))

    def limits(self, targets: Sequence[Budget]) -> list[Limit]:
        """Targets, other than a loss of accuracy, as limits of costs."""
        found = []
        for target in targets:
            if target.name != DROP:
                cost = self._cost(target.name)
                factor = self.latency_factor if target.name == LATENCY else 1.0
                found.append(Limit(target.name, cost, target.most(float(cost(self._none))) / factor))
        if self._hurried:
            found.append(
                Limit(LATENCY, self.latency.milliseconds, FASTER * float(self.latency.milliseconds(self._none)))
            )
        if self._ratio is not None and (self.options.by_sensitivity or found):
            found.append(Limit(RATIO, self.costs.macs, float(self.costs.macs(self._at_ratio(self._ratio, 1)))))
        return found

    def counts(self, limits: list[Limit]) -> np.ndarray:
        """Units that each group loses, int64 (groups,), within all limits, of a ratio as far as it is in reach. Raises
        OutOfReach."""
        if self.options.by_sensitivity:
            return self._by_sensitivity(limits)
        if not limits:
            return self._at_ratio(self._ratio or 0.0)
        if _within(limits, self._none):
            return self._none
        low, high = 0.0, MOST_REMOVED
        self._check(limits, self._at_ratio(high))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if _within(limits, self._at_ratio(middle)) else (middle, high)
        return self._at_ratio(high)

    def within_known(self, limits: list[Limit]) -> np.ndarray:
        """The same by sensitivity, from curves as far as they have been measured. Raises OutOfReach."""
        try:
            return allocate(self.known.curves, self._levels(), len(self._none), limits)
        except OutOfReach:
            if self._coarse or not self._last.followed:
                raise
        return allocate(self.known.curves, self._levels(fine=True), len(self._none), limits)

    @property
    def known(self) -> Known:
        """Rankings and sensitivities of the groups."""
        if not self.looked_again:
            return self._first.known
        left = [group.units for group in self._last.analysis.groups]
        return continued(self.analysis, self._gone, self._first.known, self._last.known, left)

    def look_again(self, later: Analysis, gone: np.ndarray) -> None:
        """Rank and try what is left in `later`, the result of the plan that removes `gone`; once, and only where it
        still has the same groups. Raises MeasurementFailed where activations cannot be measured."""
        if self.looked_again or not same_groups(self.analysis, later):
            return
        groups = zip(self.reasons, later.groups, strict=True)
        reasons = [reason or group.frozen_reason or group.unreadable for reason, group in groups]
        most = {number: most - int(gone[number]) for number, most in self._most().items()}
        self._last = Measurements(later, reasons, most, self.options, self.runtime, self._calibration, self._tell)
        self._gone = gone

    @property
    def looked_again(self) -> bool:
        """Whether what is known was measured on a result too."""
        return self._last is not self._first

    @property
    def latency(self) -> LatencyModel:
        """Measured when it is first asked for."""
        if self._latency is None:
            movable = np.array([number in self.known.ranked for number in range(len(self._none))])
            self._latency = LatencyModel(self.analysis, self.runtime, movable)
        return self._latency

    def predicted_latencies(self, counts: np.ndarray) -> tuple[float, float] | None:
        """Milliseconds expected of the original, and once so many units are gone; None where none were measured."""
        if self._latency is None:
            return None
        before, after = (float(self._latency.milliseconds(each)) for each in (self._none, counts))
        return before, self.latency_factor * after

    def coarsen(self) -> bool:
        """Let only groups lose units that are made of the kernels' own blocks, and whole ones; whether that changes
        anything."""
        changes = not self._coarse and self._free_to_change
        self._coarse = self._coarse or changes
        return changes

    @property
    def _free_to_change(self) -> bool:
        """Whether plans follow from what results are like: only by sensitivity, and not where blocks are asked
        for."""
        return self.options.by_sensitivity and self.options.round_to is None

    def refine(self) -> None:
        """Take that back."""
        self._coarse = False

    def hurry(self) -> bool:
        """Let results be faster than the original by their predicted latency too; whether that changes anything."""
        self._hurried = self._free_to_change and all(target.name != LATENCY for target in self.options.targets)
        return self._hurried

    def relax(self) -> None:
        """Take that back."""
        self._hurried = False

    def divergence(self, counts: np.ndarray) -> float:
        """What the outputs are expected to move by, were the groups' shares to add up."""
        return float(sum(curve.at(counts[number]) for number, curve in self.known.curves.items() if counts[number]))

    def _by_sensitivity(self, limits: list[Limit]) -> np.ndarray:
        """Units that go. Where that is out of reach, heavier cuts are measured too, and any number of units may go,
        unless blocks have to be coarse."""
        try:
            return self.within_known(limits)
        except OutOfReach as error:
            if self._coarse or self._last.followed:
                return self._as_far(error, limits, self._levels(fine=not self._coarse))
        self._last.follow()
        return self._by_sensitivity(limits)

    def _as_far(self, error: OutOfReach, limits: list[Limit], choices: dict[int, np.ndarray]) -> np.ndarray:
        """The same with a ratio as far as it is in reach. Raises the error where a target is what is out of it."""
        if error.limit.name != RATIO:
            raise error
        within = [replace(each, most=error.least) if each is error.limit else each for each in limits]
        return allocate(self.known.curves, choices, len(self._none), within)

    def _cost(self, name: str) -> Cost:
        """What a budget of that name limits."""
        if name == LATENCY:
            return self.latency.milliseconds
        return {"macs": self.costs.macs, "params": self.costs.parameters, "bytes": self.costs.bytes}[name]

    def _most(self) -> dict[int, int]:
        """How many units each group may lose."""
        return {
            number: min(int(group.free.sum()), int(max(MOST_REMOVED, self._ratio or 0) * group.units))
            for number, (group, reason) in enumerate(zip(self.analysis.groups, self.reasons, strict=True))
            if reason is None
        }

    def _levels(self, fine: bool = False) -> dict[int, np.ndarray]:
        """Numbers of units that the groups may lose; with `fine` any, where no rounding is asked for."""
        groups, most = self.analysis.groups, self._most()
        blocks = {n: (self.options.round_to or 1) if fine else self._block(groups[n]) for n in most}
        return {n: levels(groups[n].units, most[n], blocks[n]) for n in most}

    def _block(self, group: ChannelGroup) -> int:
        """Of how many units a multiple stays."""
        if self.options.round_to is not None:
            return self.options.round_to
        if self._coarse:
            return block_of(self.runtime) if group.units % block_of(self.runtime) == 0 else group.units
        if group.units < SMALLEST_GROUP:
            return group.units
        sizes = (block_of(self.runtime), *SMALL_BLOCKS)
        return next((size for size in sizes if group.units >= LEAST_BLOCKS * size), SMALL_BLOCKS[-1])

    def _at_ratio(self, ratio: float, round_to: int | None = None) -> np.ndarray:
        """Units that go where all groups lose the same share, or all together this share of their units."""
        counts, size = self._none.copy(), round_to or self.options.round_to or 1
        if self.options.allocation == GLOBAL:
            return global_counts(comparable_scores(self.known.ranked), len(counts), ratio, size)
        for number, count in uniform_counts(self.analysis, self.reasons, ratio, size).items():
            counts[number] = min(count, int(self.analysis.groups[number].free.sum()))
        return counts

    def _shares(self, limit: Limit, least: float) -> str:
        whole = float(limit.cost(self._none))
        return f" ({least / whole:.3f} of the original's)" if whole > 0 else ""

    @staticmethod
    def _check(limits: list[Limit], counts: np.ndarray) -> None:
        for limit in limits:
            if float(limit.cost(counts)) > limit.most:
                raise OutOfReach(limit, float(limit.cost(counts)))


def _within(limits: list[Limit], counts: np.ndarray) -> bool:
    return all(float(limit.cost(counts)) <= limit.most for limit in limits)
