"""Backward elimination: remove the channel whose loss can be made up for best, then the next one.

With A = E[a a^T] of a consumer's input channels (mean removed) and its weights V, taking channel j away and refitting
the others costs |V_j|^2 / [A^-1]_jj (optimal brain surgeon: Hassibi and Stork 1992). After each step A^-1 and the
energy V V^T of the refitted weights are downdated, so one run ranks all channels for every ratio at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from ..calibration.ridge_regression import ORIGIN_ROWS, sums
from ..calibration.samples import Calibration
from ..calibration.staged_run import CalibratedRun, StagedRun
from ..channels.groups import Analysis, WeightAxis
from ..restoration.channel_regression import Repeats
from .plan import Selection, reasons_to_leave, units_kept

RIDGE = 1e-3
"""Added to A's diagonal, relative to its mean."""
SINGLE_PRECISION_FROM = 256
STEPS = 64
"""Elimination proceeds in about this many steps; groups of at most STEPS units lose one a step."""
MEASURED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of consumers whose input `data_axis` knows."""
MAX_ROWS, ROW_ELEMENTS = 16384, 2**22
"""Rows that moments rest on at most, or as many as hold so many elements, whichever is more."""
MAX_ELEMENTS = 12 * 3 * 224 * 224
"""Elements of input that the choice rests on at most; large images give more than enough positions."""


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
        self._features = Repeats(own[np.argsort(consumer.units[own], kind="stable")].reshape(units, -1))
        columns = np.moveaxis(weight, consumer.axis, -1).reshape(-1, weight.shape[consumer.axis])
        rows = self._features.rows(columns).astype(np.float32, copy=False)
        self.energy = (rows.T @ rows).astype(np.float64)
        self._sum = np.zeros(units)
        self._gram = np.zeros((units, units))
        self._rows = 0
        self._origin = np.zeros(units, np.float32)

    def add(self, rows: np.ndarray) -> None:
        """Rows (positions, channels) of the consumer's input."""
        values = self._features.rows(rows).astype(np.float32, copy=False)
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


def eliminate(statistics: list[ConsumerStatistics], free: np.ndarray, count: int) -> Elimination:
    """The first `count` units in `free` (bool, (units,)) to go, by backward elimination over all consumers together."""
    units = len(free)
    inverses, energies, total = [], [], 0.0
    for each in statistics:
        covariance = each.covariance
        total += float((covariance * each.energy).sum())
        ridge = RIDGE * np.trace(covariance) / units or 1.0
        dtype = np.float32 if units > SINGLE_PRECISION_FROM else np.float64
        inverses.append(linalg.inv(covariance + ridge * np.eye(units)).astype(dtype))
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


def rank_units(
    analysis: Analysis, selection: Selection, calibration: Calibration, provider: str
) -> dict[int, Elimination]:
    """The order of elimination of every group that may lose units, by group number.

    One run; a group is ranked, and its moments forgotten, as soon as its last consumer has been measured. Groups
    without a consumer whose input can be measured are missing.
    """
    reasons = reasons_to_leave(analysis, selection)
    groups = {number: analysis.groups[number] for number, reason in enumerate(reasons) if reason is None}
    visits = sorted(
        ((consumer, number) for number, group in groups.items() for consumer in group.consumers),
        key=lambda visit: visit[0].node,
    )
    last = {number: index for index, (_, number) in enumerate(visits)}
    found: dict[int, list[ConsumerStatistics]] = {number: [] for number in groups}
    ranking = {}
    rng = np.random.default_rng(selection.seed)
    share = calibration.first(MAX_ELEMENTS)
    run = CalibratedRun(analysis.model, share, provider).run
    try:
        for index, (consumer, number) in enumerate(visits):
            statistics = _measure(analysis, run, consumer, groups[number].units, len(share.batches), rng)
            if statistics is not None:
                found[number].append(statistics)
            if last[number] == index and (measured := found.pop(number)):
                units = groups[number].units
                count = units - units_kept(units, selection.ratio, selection.round_to)
                ranking[number] = eliminate(measured, groups[number].free, count)
    finally:
        run.close()
    return ranking


def _measure(
    analysis: Analysis, run: StagedRun, consumer: WeightAxis, units: int, batches: int, rng: np.random.Generator
) -> ConsumerStatistics | None:
    """Statistics of a consumer's input; None for other operators than MEASURED, where its weight is not its own or
    takes the units unevenly, and where the input is not finite."""
    taken = np.bincount(consumer.units[consumer.units >= 0], minlength=units)
    if consumer.op not in MEASURED or consumer.weight is None or consumer.groups > 1 or (taken != taken[0]).any():
        return None
    name, axis = data_axis(analysis, consumer)
    run.reach(name)
    statistics = ConsumerStatistics(consumer, units, analysis.model.weights[consumer.weight])
    limit = max(MAX_ROWS // batches, ROW_ELEMENTS // (len(consumer.units) * batches), 1)
    for value in run.values(name):
        if value.size == 0:
            continue
        rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        statistics.add(rows if len(rows) <= limit else rows[rng.choice(len(rows), limit, replace=False)])
    return statistics if statistics.finite else None
