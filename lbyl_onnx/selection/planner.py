"""From budgets to plans: who loses how many units, by sensitivity or all alike."""

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
from ..options import PruneOptions, RunOptions
from ..progress import Tell, untold
from .allocation import Cost, Limit, OutOfReach, allocate, levels
from .criteria import Trial
from .latency_model import LatencyModel
from .plan import Plan, choose, rank, uniform_counts
from .sensitivity import Curve, sensitivities

RATIO = "ratio"
MOST_REMOVED = 0.875
"""Share of a group's units that may go."""
SMALL_BLOCKS = (8, 4)
"""Blocks for groups of fewer than LEAST_BLOCKS of the kernels' own."""
LEAST_BLOCKS = 4
SMALLEST_GROUP = 8
"""Units below which a group is left whole, unless a rounding is asked for."""
HALVINGS = 12
"""Steps in which the ratio that meets a budget is found where all groups lose the same share."""


class Planner:
    """Ranked groups, what their units are worth to the output, and what everything costs.

    `curves`: sensitivities by group number, none where all groups lose the same share. `latency_factor`: by how much
    measured latencies are longer than predicted ones. Raises MeasurementFailed where activations cannot be measured.
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
        self._coarse = False
        self._far: dict[int, Curve] | None = None
        exact = options.uniform and options.ratio is not None and not options.targets
        most = uniform_counts(analysis, reasons, options.ratio or 0.0, options.round_to or 1) if exact else self._most()
        self._calibration, self._tell = calibration, tell
        share = 1.0 if options.uniform else 0.5
        self.ranked = rank(
            analysis, reasons, most, options, runtime, calibration, lambda name, done: tell(name, share * done)
        )
        self.curves: dict[int, Curve] = {}
        if not options.uniform:
            assert calibration is not None
            read = [number for number in self.ranked if analysis.groups[number].consumers]
            self._trials = {number: self._trial(number, most[number]) for number in read}
            self.curves = sensitivities(
                analysis, self._trials, calibration, runtime, lambda name, done: tell(name, share * (1 + done))
            )
        self._near = self.curves

    def begin(self, targets: tuple[Budget, ...]) -> None:
        """Plan for other targets from here on, as if there had been none before; what was measured is kept."""
        self.options = replace(self.options, targets=targets)
        self.latency_factor, self._coarse, self.curves = 1.0, False, self._near

    def plan(self, targets: Sequence[Budget]) -> Plan:
        """A plan within the ratio that was asked for and all `targets`. Raises NothingToRemove where one is out of
        reach."""
        try:
            return self.plan_of(self.counts(self.limits(targets)))
        except OutOfReach as error:
            limit = error.limit
            raise NothingToRemove(
                f"{self.analysis.model.name}: {limit.name} cannot be brought to {limit.most:,.6g}; "
                f"the least within reach is {error.least:,.6g}{self._shares(limit, error.least)}"
            ) from None

    def plan_of(self, counts: np.ndarray) -> Plan:
        """The plan that removes so many units of each group."""
        return choose(self.analysis, self.reasons, self.ranked, dict(enumerate(counts.tolist())))

    def limits(self, targets: Sequence[Budget]) -> list[Limit]:
        """Targets, other than a loss of accuracy, as limits of costs."""
        found = []
        for target in targets:
            if target.name != DROP:
                cost = self._cost(target.name)
                factor = self.latency_factor if target.name == LATENCY else 1.0
                found.append(Limit(target.name, cost, target.most(float(cost(self._none))) / factor))
        if self.options.ratio is not None and not (self.options.uniform and not found):
            alike = self._alike(self.options.ratio, 1)
            found.append(Limit(RATIO, self.costs.macs, float(self.costs.macs(alike))))
        return found

    def counts(self, limits: list[Limit]) -> np.ndarray:
        """Units that each group loses, int64 (groups,), within all limits, of a ratio as far as it is in reach. Raises
        OutOfReach."""
        if not self.options.uniform:
            return self._by_sensitivity(limits)
        if not limits:
            return self._alike(self.options.ratio or 0.0)
        if _within(limits, self._none):
            return self._none
        low, high = 0.0, MOST_REMOVED
        self._check(limits, self._alike(high))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if _within(limits, self._alike(middle)) else (middle, high)
        return self._alike(high)

    @property
    def latency(self) -> LatencyModel:
        """Measured when it is first asked for."""
        if self._latency is None:
            movable = np.array([number in self.ranked for number in range(len(self._none))])
            self._latency = LatencyModel(self.analysis, self.runtime, movable)
        return self._latency

    def coarsen(self) -> bool:
        """Let only groups lose units that are made of the kernels' own blocks, and whole ones; whether that changes
        anything."""
        changes = not self._coarse and not self.options.uniform and self.options.round_to is None
        self._coarse = self._coarse or changes
        return changes

    def refine(self) -> None:
        """Take that back."""
        self._coarse = False

    def divergence(self, counts: np.ndarray) -> float:
        """What the outputs are expected to move by, were the groups' shares to add up."""
        return float(sum(curve.at(counts[number]) for number, curve in self.curves.items() if counts[number]))

    def _trial(self, number: int, most: int) -> Trial:
        """How a group's units would go by samples of one fold; as they are ranked where no consumer was measured."""
        ranking = self.ranked[number].ranking
        free = np.where(self.analysis.groups[number].free, ranking.importance, np.inf)
        return ranking.trial or Trial(np.argsort(free, kind="stable")[:most], ())

    def _by_sensitivity(self, limits: list[Limit]) -> np.ndarray:
        """Units that go. Where that is out of reach, heavier cuts are measured too, and any number of units may go,
        unless blocks have to be coarse."""
        try:
            return allocate(self.curves, self._levels(), len(self._none), limits)
        except OutOfReach as error:
            if self._coarse:
                return self._as_far(error, limits, self._levels())
        if self._far is None:
            assert self._calibration is not None
            self._far = sensitivities(
                self.analysis, self._trials, self._calibration, self.runtime, self._tell, self._near
            )
        self.curves = self._near | self._far
        fine = self._levels(fine=True)
        try:
            return allocate(self.curves, fine, len(self._none), limits)
        except OutOfReach as error:
            return self._as_far(error, limits, fine)

    def _as_far(self, error: OutOfReach, limits: list[Limit], choices: dict[int, np.ndarray]) -> np.ndarray:
        """The same with a ratio as far as it is in reach. Raises the error where a target is what is out of it."""
        if error.limit.name != RATIO:
            raise error
        within = [replace(each, most=error.least) if each is error.limit else each for each in limits]
        return allocate(self.curves, choices, len(self._none), within)

    def _cost(self, name: str) -> Cost:
        """What a budget of that name limits."""
        if name == LATENCY:
            return self.latency.milliseconds
        return {"macs": self.costs.macs, "params": self.costs.parameters, "bytes": self.costs.bytes}[name]

    def _most(self) -> dict[int, int]:
        """How many units each group may lose."""
        return {
            number: min(int(group.free.sum()), int(max(MOST_REMOVED, self.options.ratio or 0) * group.units))
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

    def _alike(self, ratio: float, round_to: int | None = None) -> np.ndarray:
        """Units that go where all groups lose the same share."""
        counts, size = self._none.copy(), round_to or self.options.round_to or 1
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
