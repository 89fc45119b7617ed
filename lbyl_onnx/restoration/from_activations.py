"""Restoration from activation moments: fit every weight layer of the cut model to the original's outputs.

Both models run side by side, layer by layer. At each weight layer

1. the original gives the output y, the cut model the layer's own input, with all errors made so far;
2. if the layer has lost inputs, its weights are fitted to y by ridge regression towards their present value;
3. the layer runs, and the mean and variance of each of its output channels are matched to those of y.

On synthetic samples BatchNormalization uses the statistics of the samples themselves, in both models, so that
activations look as they did in training; the running statistics that are written move as the samples' did. On
real samples every layer is fitted, not only those that lost inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from ..calibration.im2col import LinearNode, linear_node, position_count, rows_at, sample_rows
from ..calibration.ridge_regression import RowMoments, Statistics, channel_statistics, within
from ..calibration.samples import Calibration
from ..calibration.staged_run import CalibratedRun
from ..channels.folding import LayerReader
from ..channels.groups import Analysis
from ..channels.surgery import cut
from ..model.file import Model, reads
from ..selection.plan import Plan
from .channel_regression import mixed_weight, repeats
from .output_channels import OutputChannels, OutputFinder, rescale

WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MAX_INPUTS = 5120
"""Longest row that is fitted whole; layers with longer ones, or with fewer rows than a row is long, have their input
channels mixed."""
MIN_ROWS, ROWS_PER_INPUT = 8192, 4
"""Rows that a fit should rest on: the larger of MIN_ROWS and ROWS_PER_INPUT for each input."""
FRONT_ELEMENTS = 12 * 3 * 224 * 224
"""Elements of input that go in front, as long as they give enough rows."""
ROW_ELEMENTS = 2**22
"""More rows are taken where those that hold so many elements, outputs included, are more."""
SELECTING_OPS = ("Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique")
"""Operators that select by value: behind them a row of the cut model is not the same row of the original."""
MAX_RESCALE = 3.0
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class LayerFit:
    """What was done at one weight layer. `error`: the share of the original output's variance that the fit leaves on
    the samples (None: not fitted); `condition`: condition number of the ridge system; `recalibrated`: whether mean and
    variance of the output had to be matched."""

    error: float | None = None
    condition: float | None = None
    recalibrated: bool = False


def fit(
    analysis: Analysis, plan: Plan, calibration: Calibration, provider: str, seed: int = 0
) -> tuple[Model, dict[str, LayerFit]]:
    """The cut model with fitted weights, and what was done at each weight layer, by its output's name."""
    lockstep = _Lockstep(analysis, plan, calibration, provider, seed)
    try:
        lockstep.walk()
    finally:
        lockstep.original.run.close()
        lockstep.ours.run.close()
    return lockstep.fitted, lockstep.layers


class _Lockstep:
    def __init__(self, analysis: Analysis, plan: Plan, calibration: Calibration, provider: str, seed: int) -> None:
        self.fitted = cut(analysis, plan.kept)
        self.layers: dict[str, LayerFit] = {}
        front = calibration.first(FRONT_ELEMENTS)
        self.original = CalibratedRun(analysis.model, calibration, provider, len(front.batches))
        self.ours = CalibratedRun(self.fitted, calibration, provider, len(front.batches))
        self._elements, self._front = calibration.elements, front.elements
        self._probed = sum(math.prod(analysis.probe.tensors[name].shape) for name in calibration.batches[0])
        self._analysis = analysis
        self._kept = plan.kept
        self._synthetic = calibration.synthetic
        self._rng = np.random.default_rng(seed)
        self._places = OutputFinder(self.fitted)
        self._constants = LayerReader(self.fitted)
        self._selected = selected(analysis.model.proto.graph)

    def walk(self) -> None:
        """Visit the weight layers in the original's order."""
        nodes = {node.output[0]: node for node in self.fitted.proto.graph.node}
        original = self._analysis.model.proto.graph.node
        for node in original:
            if node.op_type in WEIGHT_OPS and node.output[0] in nodes:
                self._visit(node, nodes[node.output[0]])
        for run in (self.original.run, self.ours.run):
            run.finish()
        for name, statistics in self.ours.statistics.items():
            if name in self.original.statistics:
                self._move_statistics(nodes[name], self.original.statistics[name], statistics)

    def _visit(self, node: onnx.NodeProto, ours: onnx.NodeProto) -> None:
        place = self._places.find(ours)
        if place is None:
            return
        fitted = self._fit(node, ours, place)
        if fitted is not None:
            self.layers[place.name] = fitted
        elif not self._normalised(place) and self._recalibrate(place):
            self.layers[place.name] = LayerFit(recalibrated=True)

    def _rows(self, name: str, axis: int, elements: int) -> float:
        """About how many rows a tensor with channels on `axis` has for so many elements of the inputs."""
        shape = self._analysis.probe.tensors[name].shape
        return math.prod(shape) / max(shape[axis], 1) * elements / self._probed

    def _normalised(self, place: OutputChannels) -> bool:
        """Whether a BatchNormalization behind the layer uses the samples' statistics, which matches them by itself."""
        return place.sign < 0 and place.name in self.ours.normalised

    def _fit(self, node: onnx.NodeProto, ours: onnx.NodeProto, place: OutputChannels) -> LayerFit | None:
        before = self.original.model.weights.get(node.input[1])
        after = self.fitted.weights[place.weight]
        layer = linear_node(ours, self.fitted.weights)
        if before is None or layer is None or layer.data in self._selected:
            return None
        lossy = layer.channels_read(after) < layer.channels_read(before)
        if not (lossy or not self._synthetic):
            return None
        inputs = layer.inputs(after)
        rows = max(MIN_ROWS, ROWS_PER_INPUT * min(inputs, MAX_INPUTS))
        lagging = self._rows(place.name, place.axis, self._front) >= rows
        self.ours.run.approach(place.name, lagging=lagging)
        if lossy and (inputs > MAX_INPUTS or self._rows(place.name, place.axis, self._elements) < inputs):
            self.original.run.reach(layer.data, lagging=lagging)
            mixed = self._mix(layer, place, inputs, rows)
            if mixed is not None:
                return mixed
        if inputs > MAX_INPUTS:
            return None
        self.original.run.reach(place.name, lagging=lagging)
        present = layer.matrix(after)
        groups, *sizes = present.shape
        moments = self._moments(layer, after, max(rows, ROW_ELEMENTS // (groups * sum(sizes))))
        if not moments.finite:
            return None
        fitted = moments.solve(present, centred=place.takes_shift)
        self._replace(place.weight, layer.weight_like(fitted.matrix, after))
        if self._normalised(place):
            return LayerFit(fitted.error, fitted.condition, recalibrated=True)
        bias = np.zeros(1) if place.bias is None else place.beta * self.fitted.weights[place.bias]
        statistics = Statistics(fitted.fit.mean + bias.reshape(-1), fitted.fit.variance)
        moved = self._match(place, fitted.wanted, statistics)
        return LayerFit(fitted.error, fitted.condition, moved is not None)

    def _mix(self, layer: LinearNode, place: OutputChannels, inputs: int, rows: int) -> LayerFit | None:
        """Mix the layer's input channels; None where these cannot be told apart or are as many as its `inputs`."""
        labels = self._analysis.labelling.axes.get(layer.data, [None])[1 if layer.is_convolution else -1]
        if labels is None or layer.groups > 1:
            return None
        classes = self._analysis.classes.class_of[labels]
        left = self._kept[classes]
        before, after = repeats(classes), repeats(classes[left])
        if before is None or after is None or len(after.features) == inputs:
            return None
        moments = RowMoments(1, len(before.features), len(after.features))
        for found, wanted in self._pairs(layer, layer.data):
            positions = self._positions(wanted, layer, rows // before.features.shape[1])
            x, y = (rows_at(value, layer, positions) for value in (found, wanted))
            moments.add(after.rows(x)[None], before.rows(y))
        if not moments.finite:
            return None
        present = np.eye(len(before.features))[:, self._kept[np.unique(classes)]]
        fitted = moments.solve(present[None], centred=place.takes_shift)
        kept = self._kept_channels(place.name, place.axis)
        weight = np.compress(kept, self.original.model.weights[layer.weight], place.weight_axis)
        self._replace(place.weight, mixed_weight(weight, 1 - place.weight_axis, before, after, fitted.matrix[0]))
        moved = not self._normalised(place) and self._recalibrate(place)
        return LayerFit(fitted.error, fitted.condition, moved)

    def _moments(self, layer: LinearNode, weight: np.ndarray, rows: int) -> RowMoments:
        moments = RowMoments(*layer.matrix(weight).shape)
        kernel = weight.shape[2:] if layer.is_convolution else ()
        kept = self._kept_channels(layer.output, 1 if layer.is_convolution else -1)
        left: np.ndarray | slice = slice(None) if kept.all() else kept
        for data, output in self._pairs(layer, layer.output):
            positions = self._positions(output, layer, rows)
            taken = sample_rows(layer, data, kernel, positions, output.shape)
            moments.add(taken, rows_at(output, layer, positions)[:, left])
        return moments

    @property
    def _level(self) -> int:
        """How many batches are level with the first in both runs."""
        return min(self.original.run.level, self.ours.run.level)

    def _pairs(self, layer: LinearNode, wanted: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What the layer reads in the cut model and the original's tensor `wanted`, on the same samples, batch by
        batch; without batches that have no rows, or not the same."""
        ours = self.ours.run.values(layer.data, self._level)
        for found, value in zip(ours, self.original.run.values(wanted, self._level), strict=True):
            if value.size and layer.pairs(found, value):
                yield found, value

    def _positions(self, value: np.ndarray, layer: LinearNode, rows: int) -> np.ndarray:
        """Positions in one batch's value, as many as make about `rows` over all batches."""
        total, share = position_count(value, layer), rows // self._level + 1
        return np.arange(total) if total <= share else self._rng.choice(total, share, replace=False)

    def _kept_channels(self, name: str, axis: int) -> np.ndarray:
        labels = self._analysis.labelling.axes[name][axis]
        if labels is None:
            return np.ones(self._analysis.probe.tensors[name].shape[axis], bool)
        return self._kept[self._analysis.classes.class_of[labels]]

    def _recalibrate(self, place: OutputChannels) -> bool:
        """Match an output that was not fitted to the original's; whether it had to move."""
        lagging = self._rows(place.name, place.axis, self._front) >= MIN_ROWS
        for run in (self.original.run, self.ours.run):
            run.reach(place.name, lagging=lagging)
        kept = self._kept_channels(place.name, place.axis)
        wanted = channel_statistics(self.original.run.values(place.name, self._level), place.axis)
        found = channel_statistics(self.ours.run.values(place.name, self._level), place.axis)
        if wanted is None or found is None:
            return False
        moved = self._match(place, Statistics(wanted.mean[kept], wanted.variance[kept]), found)
        if moved is None:
            return False
        scale, shift = moved
        along = [1] * len(self._analysis.probe.tensors[place.name].shape)
        along[place.axis] = -1
        inside = shift if place.shift_after is None else np.zeros_like(shift)
        self.ours.run.update(place.name, lambda value: _affine(value, scale.reshape(along), inside.reshape(along)))
        return True

    def _match(
        self, place: OutputChannels, wanted: Statistics, found: Statistics
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Rescale the layer's output channels from the statistics `found` to those `wanted`.

        Returns factors and shifts, float64 (channels,), or None where nothing has to move, or where there is no place
        for a shift, as a factor alone would move the mean."""
        if not place.takes_shift:
            return None
        scale = rescaling(wanted.variance, found.variance, wanted.mean)
        shift = wanted.mean - scale * found.mean
        spread = np.sqrt(wanted.variance.mean()) + np.finfo(np.float64).tiny
        still = np.abs(scale - 1).max() < NEGLIGIBLE and np.abs(shift).max() < NEGLIGIBLE * spread
        if still or not np.isfinite(shift).all():
            return None
        for model in (self.fitted, self.ours.model):
            rescale(model, place, scale, shift)
        return scale, shift

    def _replace(self, name: str, value: np.ndarray) -> None:
        for model in (self.fitted, self.ours.model):
            model.replace(name, value)

    def _move_statistics(
        self,
        node: onnx.NodeProto,
        original: Statistics,
        ours: Statistics,
    ) -> None:
        """Move a BatchNormalization's running statistics as the samples' statistics moved."""
        found_mean, found_variance = (self._constants.constant(name) for name in node.input[3:5])
        if found_mean is None or found_variance is None:
            return
        mean, variance = found_mean[1], found_variance[1]
        kept = self._kept_channels(node.output[0], 1)
        scale = rescaling(ours.variance, original.variance[kept], ours.mean)
        moved = ours.mean + scale * (mean - original.mean[kept])
        if not np.isfinite(moved).all():
            return
        for slot, value in ((3, within(moved, mean.dtype)), (4, within(variance * scale**2, variance.dtype))):
            name = self._places.own_constant(node.input[slot])
            if name is None:
                node.input[slot] = self.fitted.free_name(f"{node.output[0]}_statistics_{slot}")
                self.fitted.add(node.input[slot], value)
            else:
                self.fitted.replace(name, value)


def _affine(value: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    result = value * scale.astype(value.dtype)
    result += shift.astype(value.dtype)
    return result


def selected(graph: onnx.GraphProto) -> set[str]:
    """Tensors behind operators that select by the values that weight layers gave."""
    computed: set[str] = set()
    chosen: set[str] = set()
    for node in graph.node:
        read = set(reads(node))
        selects = node.op_type in SELECTING_OPS and not computed.isdisjoint(read)
        if selects or not chosen.isdisjoint(read):
            chosen.update(node.output)
        if node.op_type in WEIGHT_OPS or not computed.isdisjoint(read):
            computed.update(node.output)
    return chosen


def rescaling(wanted: np.ndarray, found: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Factor that brings variance `found` to `wanted`, all float64 (channels,), within [1/MAX_RESCALE, MAX_RESCALE];
    1 for channels that hardly vary in either, compared with their `mean` and with the other channels."""
    floor = NEGLIGIBLE * (mean**2 + NEGLIGIBLE * wanted.mean()) + np.finfo(np.float64).tiny
    alive = (wanted > floor) & (found > floor)
    ratio = np.sqrt(np.where(alive, wanted, 1) / np.where(alive, found, 1))
    return np.clip(ratio, 1 / MAX_RESCALE, MAX_RESCALE)
