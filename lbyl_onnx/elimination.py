"""Backward elimination: remove the channel whose loss can be made up for best, then the next one.

With A = E[a a^T] of a consumer's input channels (mean removed) and its weights V, taking channel j away and refitting
the others costs |V_j|^2 / [A^-1]_jj (optimal brain surgeon: Hassibi and Stork 1992). After each step A^-1 and the
energy V V^T of the refitted weights are downdated, so one run ranks all channels for every ratio at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from .calibration import Calibration
from .groups import Analysis, ChannelGroup, WeightAxis
from .plan import Selection, reasons_to_leave
from .stepwise import CalibratedRun, StepwiseRun

RIDGE = 1e-3
"""Added to A's diagonal, relative to its mean."""
STEPS = 128
"""Elimination proceeds in at most about this many steps; groups up to this size lose one unit a step."""
MAX_ROWS = 65536


@dataclass(frozen=True)
class Elimination:
    """`order`: int64 (removable units,), units in the order of their removal. `error`: float64 of the same shape,
    what has been lost once a unit is gone, relative to the variance of the consumers' outputs."""

    order: np.ndarray
    error: np.ndarray

    def importance(self, units: int) -> np.ndarray:
        """Importance of each of `units` units, float64 (units,): its place in the order, infinite if not in it."""
        result = np.full(units, np.inf)
        result[self.order] = np.arange(len(self.order))
        return result

    def predicted_error(self, removed: int) -> float:
        """The error once the first `removed` units are gone."""
        return float(self.error[removed - 1]) if 0 < removed <= len(self.error) else 0.0


class ConsumerStatistics:
    """Second moments of one consumer's input over the units of a group, float64 (units, units), and the energy of
    its weights over them; built batch by batch."""

    def __init__(self, consumer: WeightAxis, units: int, weight: np.ndarray) -> None:
        own = np.flatnonzero(consumer.units >= 0)
        self._position = own[np.argsort(consumer.units[own], kind="stable")].reshape(units, -1)
        matrix = np.moveaxis(weight.astype(np.float64), consumer.axis, 0)
        flat = matrix[self._position.T].reshape(self._position.shape[1], units, -1)
        self.energy = np.einsum("rud,rvd->uv", flat, flat, optimize=True)
        self._sum = np.zeros(units)
        self._gram = np.zeros((units, units))
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        """Rows (positions, channels) of the consumer's input."""
        values = rows[:, self._position].transpose(0, 2, 1).reshape(-1, len(self._sum)).astype(np.float32)
        self._sum += values.sum(axis=0, dtype=np.float64)
        self._gram += values.T @ values
        self._rows += len(values)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the units' activations."""
        mean = self._sum / self._rows
        return self._gram / self._rows - np.outer(mean, mean)


def measure(
    analysis: Analysis, run: StepwiseRun, groups: list[ChannelGroup], batches: int, seed: int
) -> dict[int, list[ConsumerStatistics]]:
    """Statistics of every consumer of `groups` with a weight of its own, by position in `groups`, from one run."""
    found: dict[int, list[ConsumerStatistics]] = {index: [] for index in range(len(groups))}
    pairs = [(consumer, index) for index, group in enumerate(groups) for consumer in group.consumers]
    rng = np.random.default_rng(seed)
    for consumer, index in sorted(pairs, key=lambda pair: pair[0].node):
        weight = None if consumer.weight is None else analysis.model.weights[consumer.weight]
        counts = np.bincount(consumer.units[consumer.units >= 0], minlength=groups[index].units)
        if weight is None or consumer.groups > 1 or len(set(counts.tolist())) != 1:
            continue
        name, axis = data_axis(analysis, consumer)
        run.reach(name)
        statistics = ConsumerStatistics(consumer, groups[index].units, weight)
        for value in run.values(name):
            rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
            limit = max(MAX_ROWS // batches, 1)
            statistics.add(rows if len(rows) <= limit else rows[rng.choice(len(rows), limit, replace=False)])
        found[index].append(statistics)
    return found


def data_axis(analysis: Analysis, consumer: WeightAxis) -> tuple[str, int]:
    """The activation that `consumer` multiplies with its weight, and the axis that it sums over."""
    node = analysis.model.proto.graph.node[consumer.node]
    if node.op_type in ("Conv", "ConvTranspose"):
        return node.input[0], 1
    if consumer.slot == 0:
        flipped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return node.input[1], -1 if flipped else -2
    flipped = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return node.input[0], -2 if flipped else -1


def eliminate(statistics: list[ConsumerStatistics], free: np.ndarray) -> Elimination:
    """Rank the units in `free` (bool, (units,)) by backward elimination over all consumers together."""
    units = len(free)
    inverses, energies, total = [], [], 0.0
    for each in statistics:
        covariance = each.covariance
        total += float((covariance * each.energy).sum())
        ridge = RIDGE * max(np.trace(covariance) / units, np.finfo(np.float64).tiny)
        inverses.append(linalg.inv(covariance + ridge * np.eye(units)))
        energies.append(each.energy.copy())
    alive = free.copy()
    order: list[int] = []
    errors: list[float] = []
    lost = 0.0
    at_once = max(1, units // STEPS)
    while alive.any():
        cost = sum(np.diag(energy) / np.diag(inverse) for energy, inverse in zip(energies, inverses, strict=True))
        chosen = np.argsort(np.where(alive, cost, np.inf), kind="stable")[: min(at_once, int(alive.sum()))]
        for unit in chosen.tolist():
            for inverse, energy in zip(inverses, energies, strict=True):
                lost += energy[unit, unit] / inverse[unit, unit]
                _downdate(inverse, energy, unit)
            order.append(unit)
            errors.append(lost / total if total > 0 else 0.0)
        alive[chosen] = False
    return Elimination(np.array(order, np.int64), np.array(errors))


def _downdate(inverse: np.ndarray, energy: np.ndarray, unit: int) -> None:
    """Take `unit` out of A^-1 and of V V^T after refitting the others, in place."""
    pivot = inverse[unit, unit]
    column = inverse[:, unit] / pivot
    shared = energy[unit].copy()
    energy -= np.outer(column, shared) + np.outer(shared, column) - np.outer(column, column) * shared[unit]
    inverse -= np.outer(column, column) * pivot
    energy[unit], energy[:, unit] = 0, 0
    inverse[unit], inverse[:, unit] = 0, 0
    inverse[unit, unit] = 1


def rank_units(
    analysis: Analysis, selection: Selection, calibration: Calibration, provider: str
) -> dict[int, Elimination]:
    """The order of elimination of every group that may lose units, by group number.

    Groups without a consumer whose input can be measured are missing.
    """
    reasons = reasons_to_leave(analysis, selection)
    numbers = [number for number, reason in enumerate(reasons) if reason is None]
    groups = [analysis.groups[number] for number in numbers]
    run = CalibratedRun(analysis.model, calibration, provider).run
    try:
        found = measure(analysis, run, groups, len(calibration.batches), selection.seed)
    finally:
        run.close()
    return {
        number: eliminate(found[index], group.free)
        for index, (number, group) in enumerate(zip(numbers, groups, strict=True))
        if found[index]
    }
