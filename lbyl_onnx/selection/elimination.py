"""Backward elimination: remove the channel whose loss can be made up for best, then the next one.

With A = E[a a^T] of a consumer's input channels (mean removed) and its weights V, taking channel j away and refitting
the others costs |V_j|^2 / [A^-1]_jj (optimal brain surgeon: Hassibi and Stork 1992). After each step A^-1 and the
energy V V^T of the refitted weights are downdated, so one run ranks all channels for every ratio at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from ..calibration.staged_run import CalibratedRun, StagedRun
from ..calibration.statistics import sums
from ..channels.features import by_channel
from ..channels.groups import Analysis, WeightAxis
from ..model.graph import GraphIndex
from ..model.weight_layer import weight_layer
from .criteria import Ranking, RankingTask, criterion

SINGLE_PRECISION_UNITS = 256
STEPS = 64
"""Elimination proceeds in about this many steps; groups of at most STEPS units lose one a step."""
MAX_ROWS, ROW_ELEMENTS = 16384, 2**22
"""Rows that moments rest on at most, or as many as hold so many elements, whichever is more."""
MAX_ELEMENTS = 12 * 3 * 224 * 224
"""Elements of input that the choice rests on at most; large images give more than enough positions."""
ORIGIN_ROWS = 256


@dataclass(frozen=True)
class Elimination:
    """`order`: int64 (removable units,), units in the order of their removal. `error`: float64 of the same shape,
    what has been lost once a unit is gone, relative to the variance of the consumers' outputs."""

    order: np.ndarray
    error: np.ndarray

    def ranking(self, units: int) -> Ranking:
        """The same for all of `units` units: those that are not in the order are infinitely important."""
        importance = np.full(units, np.inf)
        importance[self.order] = np.arange(len(self.order))
        return Ranking(importance, self.error)


class ConsumerMoments:
    """Second moments of one consumer's input over the units of a group, float64 (units, units), and the energy of
    its weights over them; built batch by batch."""

    def __init__(self, consumer: WeightAxis, units: int, weight: np.ndarray) -> None:
        self._features = consumer.features_of(units)
        columns = np.moveaxis(weight, consumer.axis, -1).reshape(-1, weight.shape[consumer.axis])
        rows = by_channel(columns, self._features).astype(np.float32, copy=False)
        self.energy = (rows.T @ rows).astype(np.float64)
        self._sum = np.zeros(units)
        self._gram = np.zeros((units, units))
        self._rows = 0
        self._origin = np.zeros(units, np.float32)

    def add(self, rows: np.ndarray) -> None:
        """Rows (positions, channels) of the consumer's input."""
        values = by_channel(rows, self._features).astype(np.float32, copy=False)
        if self._rows == 0:
            self._origin = values[:ORIGIN_ROWS].mean(axis=0)
        values = values - self._origin
        self._sum += sums(values)
        self._gram += values.T @ values
        self._rows += len(values)

    @property
    def finite(self) -> bool:
        """Whether there were values, and all of them finite."""
        return self._rows > 0 and bool(np.isfinite(self._gram).all())

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the units' activations."""
        mean = self._sum / self._rows
        return self._gram / self._rows - np.outer(mean, mean)


def eliminate(moments: list[ConsumerMoments], free: np.ndarray, count: int, ridge: float = 1e-3) -> Elimination:
    """The first `count` units in `free` (bool, (units,)) to go, by backward elimination over all consumers together.

    `ridge`: what is added to A's diagonal, relative to its mean.
    """
    units = len(free)
    inverses, energies, total = [], [], 0.0
    for each in moments:
        covariance = each.covariance
        total += float((covariance * each.energy).sum())
        strength = ridge * np.trace(covariance) / units or 1.0
        dtype = np.float32 if units > SINGLE_PRECISION_UNITS else np.float64
        inverses.append(linalg.inv(covariance + strength * np.eye(units)).astype(dtype))
        energies.append(each.energy.astype(dtype))
    alive = free.copy()
    order: list[int] = []
    errors: list[float] = []
    lost = 0.0
    at_once = max(1, units // STEPS)
    count = min(count, int(alive.sum()))
    while len(order) < count:
        cost = sum(np.diag(energy) / np.diag(inverse) for energy, inverse in zip(energies, inverses, strict=True))
        chosen = np.argsort(np.where(alive, cost, np.inf), kind="stable")[: min(at_once, count - len(order))]
        for inverse, energy in zip(inverses, energies, strict=True):
            lost += _downdate(inverse, energy, chosen)
        order += chosen.tolist()
        errors += [lost / total if total > 0 else 0.0] * len(chosen)
        alive[chosen] = False
    return Elimination(np.array(order, np.int64), np.array(errors))


def _downdate(inverse: np.ndarray, energy: np.ndarray, units: np.ndarray) -> float:
    """Take `units` out of A^-1 and of V V^T after refitting the others, in place; what this loses."""
    block = linalg.pinvh(inverse[np.ix_(units, units)])
    lost = float((block * energy[np.ix_(units, units)]).sum())
    transfer = inverse[:, units] @ block
    shared = energy[:, units] - 0.5 * transfer @ energy[np.ix_(units, units)]
    _subtract_product(energy, np.hstack([transfer, shared]), np.hstack([shared, transfer]))
    _subtract_product(inverse, transfer, inverse[:, units])
    for matrix in (energy, inverse):
        matrix[units], matrix[:, units] = 0, 0
    inverse[units, units] = 1
    return lost


def _subtract_product(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """matrix -= left @ right.T, without a temporary of the matrix's size."""
    gemm = linalg.get_blas_funcs("gemm", (matrix,))
    gemm(-1, right, left, 1, matrix.T, trans_b=True, overwrite_c=True)


@criterion("obs", needs_samples=True, fallback="l2")
def rank_by_elimination(task: RankingTask) -> dict[int, Ranking]:
    """The order of elimination of every group.

    One run; a group is ranked, and its moments forgotten, as soon as its last consumer has been measured. Groups
    without a consumer whose input can be measured are left out.
    """
    assert task.calibration is not None
    analysis, groups = task.analysis, task.groups
    visits = sorted(
        ((consumer, number) for number, group in groups.items() for consumer in group.consumers),
        key=lambda visit: visit[0].node,
    )
    last = {number: index for index, (_, number) in enumerate(visits)}
    found: dict[int, list[ConsumerMoments]] = {number: [] for number in groups}
    rankings = {}
    rng = np.random.default_rng(task.options.seed)
    share = task.calibration.first(MAX_ELEMENTS)
    graph = GraphIndex(analysis.model)
    run = CalibratedRun(analysis.model, share, task.runtime).run
    try:
        for index, (consumer, number) in enumerate(visits):
            moments = _measure(analysis, graph, run, consumer, groups[number].units, len(share.batches), rng)
            if moments is not None:
                found[number].append(moments)
            if last[number] == index and (measured := found.pop(number)):
                group = groups[number]
                rankings[number] = eliminate(measured, group.free, task.counts[number]).ranking(group.units)
    finally:
        run.close()
    return rankings


def consumer_input(graph: GraphIndex, consumer: WeightAxis) -> tuple[str, int] | None:
    """The activation that a consumer multiplies with its weight, and the axis that it sums over; None where it is no
    WeightLayer."""
    layer = weight_layer(graph, graph.nodes[consumer.node])
    return (layer.data, layer.data_axis) if layer is not None and layer.weight_slot == consumer.slot else None


def _measure(
    analysis: Analysis,
    graph: GraphIndex,
    run: StagedRun,
    consumer: WeightAxis,
    units: int,
    batches: int,
    rng: np.random.Generator,
) -> ConsumerMoments | None:
    """Moments of a consumer's input; None where it is no weight layer, its weight is not its own or takes the units
    unevenly, and where the input is not finite."""
    place = consumer_input(graph, consumer)
    own = consumer.weight is not None and consumer.weight.exclusive
    if place is None or not own or consumer.groups > 1 or not consumer.takes_evenly(units):
        return None
    assert consumer.weight is not None
    name, axis = place
    run.reach(name)
    moments = ConsumerMoments(consumer, units, consumer.weight.read(analysis.model))
    limit = max(MAX_ROWS // batches, ROW_ELEMENTS // (len(consumer.units) * batches), 1)
    for value in run.values(name):
        if value.size == 0:
            continue
        rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        moments.add(rows if len(rows) <= limit else rows[rng.choice(len(rows), limit, replace=False)])
    return moments if moments.finite else None
