"""Second moments of what consumers read, measured in one run of the original."""

from __future__ import annotations

import math

import numpy as np

from ..calibration.im2col import sample_rows
from ..calibration.ridge_regression import RowMoments
from ..calibration.samples import Calibration
from ..calibration.staged_run import CalibratedRun
from ..channels.features import by_channel
from ..channels.groups import WeightAxis
from ..channels.pooling import before_pooling
from ..model.graph import GraphIndex
from ..model.weight_layer import weight_layer
from .criteria import RankingTask, Reading

MAX_ROWS, ROW_ELEMENTS = 16384, 2**22
"""Rows that moments rest on at most, or as many as hold so many elements, whichever is more."""
ROWS_PER_UNIT = 4
"""Rows that moments of a pooled input should rest on, for each unit."""
WHOLE_INPUTS = 2304
"""Longest row whose inputs are all measured against one another; of longer ones, only the group's units."""
WHOLE_ROWS, WHOLE_ROWS_PER_INPUT = 4096, 3
"""Rows that this rests on: the larger of WHOLE_ROWS and WHOLE_ROWS_PER_INPUT for each input."""


class ConsumerMoments:
    """Second moments of one consumer's input over the units of a group, float64 (units, units), of each fold and of
    all, and the energy of its weights over them; built batch by batch."""

    def __init__(
        self, consumer: WeightAxis, units: int, weight: np.ndarray, folds: int = 1, rows_are_samples: bool = False
    ) -> None:
        self.consumer = consumer
        self.rows_are_samples = rows_are_samples
        self._features = consumer.features_of(units)
        columns = np.moveaxis(weight, consumer.axis, -1).reshape(-1, weight.shape[consumer.axis])
        rows = by_channel(columns, self._features).astype(np.float32, copy=False)
        self.energy = (rows.T @ rows).astype(np.float64)
        self._moments = RowMoments(1, 0, units, folds)

    def add(self, rows: np.ndarray, fold: int = 0) -> None:
        """Rows (positions, channels) of the consumer's input."""
        self._moments.add(by_channel(rows, self._features)[None], fold=fold)

    @property
    def finite(self) -> bool:
        """Whether there were values, and all of them finite."""
        return self._moments.finite

    @property
    def folds(self) -> np.ndarray:
        """The folds that have rows."""
        return self._moments.folds

    @property
    def mean(self) -> np.ndarray:
        """Mean of the units' activations on the first fold, float64 (units,)."""
        return self._moments.central(self.folds[:1]).x[0]

    @property
    def reading(self) -> Reading:
        """The moments of the first fold."""
        return Reading(self.consumer, self.mean, self.covariance_of(self.folds[:1]).astype(np.float32), whole=False)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the units' activations."""
        return self.covariance_of(self.folds)

    def covariance_of(self, folds: np.ndarray) -> np.ndarray:
        """The same of some folds."""
        return self._moments.central(folds).xx[0].astype(np.float64, copy=False)


def consumer_input(graph: GraphIndex, consumer: WeightAxis) -> tuple[str, int] | None:
    """The activation that a consumer multiplies with its weight, and the axis that it sums over; None where it is no
    WeightLayer."""
    layer = weight_layer(graph, graph.nodes[consumer.node])
    return (layer.data, layer.data_axis) if layer is not None and layer.weight_slot == consumer.slot else None


class Measuring:
    """One run of the original, in which the consumers' inputs are measured one after the other."""

    def __init__(self, task: RankingTask, calibration: Calibration) -> None:
        front = calibration.front
        self._analysis = task.analysis
        self._index = GraphIndex(task.analysis.model)
        self._calibration, self._front = calibration, front.elements
        self._rng = np.random.default_rng(task.options.seed)
        self.run = CalibratedRun(task.analysis.model, calibration, task.runtime, len(front.batches)).run

    def _place(self, consumer: WeightAxis) -> tuple[str, int] | None:
        """Where a consumer's input is measured: in front of a global pooling where that gives too few rows."""
        place = consumer_input(self._index, consumer)
        if place is None or self._analysis.rows(*place, self._calibration.elements) >= ROWS_PER_UNIT * len(
            consumer.units
        ):
            return place
        return before_pooling(self._analysis, self._index, *place) or place

    def when(self, consumer: WeightAxis) -> int:
        """The number of the node behind which a consumer's input is measured."""
        place = self._place(consumer)
        return -1 if place is None else self._index.numbers.get(place[0], -1)

    def moments(self, consumer: WeightAxis, units: int) -> ConsumerMoments | None:
        """Moments of a consumer's input; None where it is no weight layer, its weight is not its own or takes the units
        unevenly, and where the input is not finite."""
        place = self._place(consumer)
        own = consumer.weight is not None and consumer.weight.exclusive
        if place is None or not own or consumer.groups > 1 or not consumer.takes_evenly(units):
            return None
        assert consumer.weight is not None
        name, axis = place
        self.run.reach(name, lagging=self._analysis.rows(name, axis, self._front) >= MAX_ROWS)
        weight = consumer.weight.read(self._analysis.model)
        shape = self._analysis.probe.tensors[name].shape
        single = math.prod(shape) == shape[axis] * self._analysis.probe.samples
        moments = ConsumerMoments(consumer, units, weight, self._calibration.fold_count, single)
        limit = max(MAX_ROWS, ROW_ELEMENTS // len(consumer.units)) // self.run.level + 1
        for fold, value in zip(self._calibration.folds, self.run.values(name), strict=False):
            if value.size == 0:
                continue
            rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
            chosen = rows if len(rows) <= limit else rows[self._rng.choice(len(rows), limit, replace=False)]
            moments.add(chosen, fold)
        return moments if moments.finite else None

    def reading(self, consumer: WeightAxis, moments: ConsumerMoments) -> Reading | None:
        """What the consumer reads, of all inputs of its rows where these are few enough and were just measured at the
        consumer itself; None where `matrix` does not describe the layer."""
        layer = weight_layer(self._index, self._index.nodes[consumer.node])
        place = self._place(consumer)
        if layer is None or place is None or not layer.is_rows:
            return None
        weight = layer.weight.read(self._analysis.model)
        inputs = layer.inputs(weight)
        if place[0] != layer.data or inputs > WHOLE_INPUTS:
            return moments.reading
        space = self._analysis.probe.tensors[layer.name].shape[2:] if layer.is_convolution else ()
        wanted = max(WHOLE_ROWS, WHOLE_ROWS_PER_INPUT * inputs)
        whole = RowMoments(1, 0, inputs)
        first = [number for number, fold in enumerate(self._calibration.folds) if fold == moments.folds[0]]
        for value in self.run.batches(layer.data, first):
            positions = len(value) * math.prod(space) if layer.is_convolution else value.size // value.shape[-1]
            share = min(positions, wanted // len(first) + 1)
            chosen = self._rng.choice(positions, share, replace=False)
            whole.add(sample_rows(layer, value, weight.shape[2:], chosen, (len(value), 0, *space)))
        if not whole.folds.size:
            return moments.reading
        found = whole.central(whole.folds)
        return Reading(consumer, found.x[0], found.xx[0].astype(np.float32, copy=False), whole=True)
