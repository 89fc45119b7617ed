"""What leaves the outputs when one group loses units, measured on samples that neither chose nor fitted anything.

For one group at a time, its first units to go are taken out of what its consumers read, and the consumers' weights are
refitted in closed form: with K the kept and R the removed inputs, mean m and covariance A of them, W'_K = W_K +
W_R A_RK (A_KK + r I)^-1, and the output moves by W_R (m_R - A_RK (A_KK + r I)^-1 m_K). Order, m and A come from the
first fold of samples; the second one runs through what follows the group, and what its outputs are away from the
original's is the group's sensitivity. A layer's own relative error would not do: it says nothing of what it does to the
output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..calibration.ridge_regression import ridge_solution
from ..calibration.samples import Calibration
from ..calibration.staged_run import Batch, CalibratedRun, StagedRun
from ..channels.groups import Analysis, ChannelGroup, WeightAxis
from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.nodes import reads
from ..model.weight_layer import WeightLayer, weight_layer
from ..options import RunOptions
from ..progress import Tell, untold
from .criteria import Reading, Trial
from .divergence import Original

FIRST_SHARES = (0.125, 0.25, 0.5)
"""Shares of a group's units whose leaving is measured for every group."""
LATER_SHARE, EARLIER_SHARE = 0.75, 0.0625
"""One more share: the larger where half of the units can be spared, the smaller where they cannot."""
SPARED = 0.1
"""Divergence below which they can."""
FAR_SHARES = (0.75, 1.0)
"""Shares that are measured where a budget is out of reach otherwise; at most what may go."""
RIDGE = 0.1
"""Of the refits, relative to the mean variance."""
JUDGED_ELEMENTS = 128 * 3 * 224 * 224
"""Elements of input and output in the samples that are run, at most, where that leaves LEAST_JUDGED batches: one sample
of a segmenting network has answers for thousands of positions."""
LEAST_JUDGED = 8
"""Batches that are run, however large they are."""
STEEPEST = 3.0
"""The highest power that a curve begins with."""


@dataclass(frozen=True)
class Curve:
    """One group's sensitivity. `removed`: int64 (points,), units that went, ascending; `divergence`: float64 (points,),
    what that did to the outputs (`selection.divergence`), averaged over them, and not falling."""

    removed: np.ndarray
    divergence: np.ndarray

    def at(self, removed: np.ndarray) -> np.ndarray:
        """The divergence after any number of units, float64 of their shape: a power of the number up to the second
        point, then straight in logarithms; beyond the last point infinite."""
        points, values = self.removed.astype(np.float64), np.maximum(self.divergence, np.finfo(np.float64).tiny)
        counts = np.asarray(removed, np.float64)
        logs = np.log(np.maximum(counts, 1e-9))
        power = 1.0
        if len(points) > 1:
            (low, high), (first, second) = np.log(values[:2]), np.log(points[:2])
            rise = (high - low) / (second - first)
            power = float(np.clip(rise, 1.0, STEEPEST))
        early = values[0] * (counts / points[0]) ** power
        late = np.exp(np.interp(logs, np.log(points), np.log(values)))
        found = np.where(counts < points[0], early, late)
        return np.where(counts > points[-1], np.inf, found)


def sensitivities(
    analysis: Analysis,
    trials: Mapping[int, Trial],
    calibration: Calibration,
    options: RunOptions,
    tell: Tell = untold,
    known: Mapping[int, Curve] | None = None,
) -> dict[int, Curve]:
    """The curves of all groups that have trials, by group number; without those whose loss cannot be measured. Those
    that are `known` are followed further, to FAR_SHARES.

    Raises MeasurementFailed where onnxruntime refuses a run or no output tells anything.
    """
    measuring = _Measuring(analysis, calibration, options)
    try:
        found = {}
        starts = {number: min(axis.node for axis in analysis.groups[number].consumers) for number in trials}
        for index, number in enumerate(sorted(trials, key=starts.__getitem__)):
            tell(analysis.groups[number].name, index / len(trials))
            curve = measuring.curve(analysis.groups[number], trials[number], (known or {}).get(number))
            if curve is not None:
                found[number] = curve
        return found
    finally:
        measuring.run.close()


class _Measuring:
    """The original on its way through the samples that judge, stopping in front of each group's consumers."""

    def __init__(self, analysis: Analysis, calibration: Calibration, options: RunOptions) -> None:
        self._analysis = analysis
        self._index = GraphIndex(analysis.model)
        judging = _judging(analysis, calibration)
        model = _as_measured(analysis.model, calibration, options)
        self.run = StagedRun(model, judging.batches, options)
        outputs = [value.name for value in analysis.model.proto.graph.output]
        whole = self.run.rest(self.run.ahead(), {}, outputs)
        self._original = Original(judging.batches, whole({}))

    def curve(self, group: ChannelGroup, trial: Trial, known: Curve | None = None) -> Curve | None:
        """The curve of one group, or what is `known` of it and its further course; None where no output follows it."""
        first = min(axis.node for axis in group.consumers)
        self.run.approach(self._index.nodes[first].output[0])
        cut = _CutGroup(self._analysis, self._index, group, trial)
        nodes = cut.rewired(self.run.ahead())
        followed = {self._index.nodes[axis.node].output[0] for axis in group.consumers}
        for node in self.run.ahead():
            if not followed.isdisjoint(reads(node)):
                followed.update(node.output)
        outputs = [name for name in self._original.names if name in followed]
        if not outputs:
            return None
        rest = self.run.rest(nodes, cut.given(0), outputs)
        found = dict(zip(known.removed.tolist(), known.divergence.tolist(), strict=True)) if known else {}

        def measure(share: float) -> float:
            count = min(max(1, round(share * group.units)), len(trial.order))
            if count not in found:
                found[count] = self._original.divergence(rest(cut.given(count)), outputs)
            return found[count]

        shares = FAR_SHARES if known else FIRST_SHARES
        last = [measure(share) for share in shares][-1]
        if not known:
            measure(LATER_SHARE if last < SPARED else EARLIER_SHARE)
        counts = np.array(sorted(found), np.int64)
        return Curve(counts, np.maximum.accumulate([found[count] for count in counts.tolist()]))


class _CutGroup:
    """One group's consumers with weights that do without its first units to go."""

    def __init__(self, analysis: Analysis, index: GraphIndex, group: ChannelGroup, trial: Trial) -> None:
        self._order = trial.order
        self._units = group.units
        readings = {(each.consumer.node, each.consumer.slot): each for each in trial.readings}
        names = analysis.model.free_names(
            [f"{kind}_{axis.node}_{axis.slot}" for axis in group.consumers for kind in ("weight", "shift", "plain")]
        )
        self._consumers = [
            _Consumer(analysis, index, axis, readings.get((axis.node, axis.slot)), *names[3 * number : 3 * number + 3])
            for number, axis in enumerate(group.consumers)
            if axis.weight is not None
        ]

    def rewired(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Copies of `nodes` in which the consumers take the weights and shifts that are given to them."""
        found = []
        for node in nodes:
            behind: list[onnx.NodeProto] = []
            for consumer in self._consumers:
                if consumer.output == node.output[0]:
                    node, *added = consumer.rewired(node)
                    behind = added or behind
            found += [node, *behind]
        return found

    def given(self, count: int) -> Batch:
        """Weights and shifts by name once the first `count` units are gone."""
        removed = np.sort(self._order[:count])
        kept = np.setdiff1d(np.arange(self._units), removed)
        return {name: value for each in self._consumers for name, value in each.given(kept, removed).items()}


class _Consumer:
    """One consumer, whose weight and shift are inputs."""

    def __init__(
        self,
        analysis: Analysis,
        index: GraphIndex,
        axis: WeightAxis,
        reading: Reading | None,
        weight: str,
        shift: str,
        plain: str,
    ) -> None:
        assert axis.weight is not None
        node = index.nodes[axis.node]
        self.output = node.output[0]
        self._axis, self._reading = axis, reading
        self._names = weight, shift, plain
        self._weight = axis.weight.read(analysis.model)
        self._layer = weight_layer(index, node) if reading is not None else None
        self._rank = len(analysis.probe.tensors[self.output].shape)
        self._inputs = inputs_of(self._layer, axis, self._weight) if self._layer is not None else np.empty((0, 0), int)

    def rewired(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The node with its weight given, and where it was measured an Add of the shift behind it."""
        weight, shift, plain = self._names
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[self._axis.slot] = weight
        if self._reading is None or copy.output[0] != self.output:
            return [copy]
        copy.output[0] = plain
        return [copy, helper.make_node("Add", [plain, shift], [self.output])]

    def given(self, kept: np.ndarray, removed: np.ndarray) -> Batch:
        """Its weight and shift without the units `removed`."""
        weight, shift, _ = self._names
        if self._reading is None:
            value = np.moveaxis(self._weight.copy(), self._axis.axis, 0)
            value[np.isin(self._axis.units, removed)] = 0
            return {weight: np.ascontiguousarray(np.moveaxis(value, 0, self._axis.axis))}
        assert self._layer is not None
        restored, moved = without(self._layer.matrix(self._weight)[0], self._inputs, self._reading, kept, removed)
        along = [1] * self._rank
        along[self._layer.channel_axis] = -1
        value = self._layer.weight_like(restored[None], self._weight).astype(self._weight.dtype)
        return {weight: np.ascontiguousarray(value), shift: moved.reshape(along).astype(self._weight.dtype)}


def without(
    matrix: np.ndarray, inputs: np.ndarray, reading: Reading, kept: np.ndarray, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's matrix, float64 (outputs, inputs), refitted to do without the units `removed`, and the shift of its
    outputs that this takes, float64 (outputs,). `inputs`: those of each unit, int64 (units, inputs per unit)."""
    matrix = matrix.copy()
    gone = inputs[removed].ravel()
    if reading.whole:
        left = np.setdiff1d(np.arange(matrix.shape[1]), gone)
        mixing, offset = stand_in(reading.covariance, reading.mean, left, gone)
        shift = matrix[:, gone] @ offset
        matrix[:, left] += matrix[:, gone] @ mixing.T
    else:
        mixing, offset = stand_in(reading.covariance, reading.mean, kept, removed)
        lost = matrix[:, inputs[removed]]
        shift = np.einsum("oru,r->o", lost, offset)
        matrix[:, inputs[kept]] += np.einsum("oru,kr->oku", lost, mixing)
    matrix[:, gone] = 0
    return matrix, shift


def inputs_of(layer: WeightLayer, axis: WeightAxis, weight: np.ndarray) -> np.ndarray:
    """The inputs of a row that each unit of a group has, at every tap, int64 (units, inputs per unit)."""
    features = axis.features_of(int(axis.units.max()) + 1)
    taps = np.arange(layer.inputs(weight) // layer.channels_read(weight)) * layer.channels_read(weight)
    return (features[:, None, :] + taps[:, None]).reshape(len(features), -1)


def stand_in(
    covariance: np.ndarray, mean: np.ndarray, kept: np.ndarray, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How kept units stand in for removed ones: S, float64 (kept, removed), and what is then missing of the latter's
    mean, float64 (removed,)."""
    if not len(removed):
        return np.zeros((len(kept), 0)), np.zeros(0)
    ridge = RIDGE * (np.trace(covariance) / len(covariance) or 1.0)
    system, target = covariance[np.ix_(kept, kept)], covariance[np.ix_(kept, removed)]
    mixing = ridge_solution(system, ridge, target).astype(np.float64)
    return mixing, mean[removed] - mean[kept] @ mixing


def _judging(analysis: Analysis, calibration: Calibration) -> Calibration:
    """The samples that judge."""
    fold = calibration.only(calibration.fold_count - 1)
    batch = fold.elements * (1 + analysis.answers) / len(fold.batches)
    return fold.spread(max(int(JUDGED_ELEMENTS / batch), LEAST_JUDGED))


def _as_measured(model: Model, calibration: Calibration, options: RunOptions) -> Model:
    """The model as activations were measured: on made-up samples BatchNormalization uses their statistics."""
    run = CalibratedRun(model, calibration, options)
    try:
        if run.normalised:
            run.run.finish()
        return run.model
    finally:
        run.run.close()
