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

from dataclasses import dataclass

import numpy as np
import onnx

from .calibration import Calibration
from .groups import Analysis
from .layers import LayerReader
from .model_file import Model
from .moments import Fitted, RowMoments, channel_statistics
from .outputs import OutputChannels, OutputFinder, rescale
from .patches import LinearNode, linear_node, position_count, rows_at, sample_rows
from .plan import Plan
from .stepwise import CalibratedRun
from .surgery import cut

WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MAX_INPUTS = 5120
"""Longest row that is fitted; layers with longer ones have their input channels mixed."""
ROWS_PER_INPUT = 8
MIN_ROWS, MAX_ROWS = 8192, 32768
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
        self.original = CalibratedRun(analysis.model, calibration, provider)
        self.ours = CalibratedRun(self.fitted, calibration, provider)
        self._analysis = analysis
        self._kept = plan.kept
        self._synthetic = calibration.synthetic
        self._batches = len(calibration.batches)
        self._rng = np.random.default_rng(seed)
        self._places = OutputFinder(self.fitted)

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
            self._move_statistics(nodes[name], self.original.statistics[name], statistics)

    def _visit(self, node: onnx.NodeProto, ours: onnx.NodeProto) -> None:
        place = self._places.find(ours)
        if place is None:
            return
        output = node.output[0]
        fitted = self._fit(node, ours, place)
        self.original.run.reach(output)
        self.ours.run.reach(output)
        moved = self._recalibrate(output, place)
        if fitted is not None:
            self.layers[output] = LayerFit(fitted.error, fitted.condition, moved)
        elif moved:
            self.layers[output] = LayerFit(recalibrated=True)

    def _fit(self, node: onnx.NodeProto, ours: onnx.NodeProto, place: OutputChannels) -> Fitted | None:
        before = self.original.model.weights.get(node.input[1])
        after = self.fitted.weights[place.weight]
        layer = linear_node(ours, self.fitted.weights)
        if before is None or layer is None:
            return None
        present = layer.matrix(after)
        lossy = layer.channels_read(after) < layer.channels_read(before)
        if present.shape[2] > MAX_INPUTS or not (lossy or not self._synthetic):
            return None
        self.ours.run.reach(layer.data)
        self.original.run.reach(place.name)
        moments = self._moments(layer, after)
        if not moments.finite:
            return None
        fitted = moments.solve(present, centred=place.takes_shift)
        self._replace(place.weight, layer.weight_like(fitted.matrix, after))
        return fitted

    def _moments(self, layer: LinearNode, weight: np.ndarray) -> RowMoments:
        groups, outputs, inputs = layer.matrix(weight).shape
        moments = RowMoments(groups, outputs, inputs)
        wanted = int(np.clip(ROWS_PER_INPUT * inputs, MIN_ROWS, MAX_ROWS)) // self._batches + 1
        kernel = weight.shape[2:] if layer.is_convolution else ()
        kept = self._kept_channels(layer.output, 1 if layer.is_convolution else -1)
        ours, original = self.ours.run.values(layer.data), self.original.run.values(layer.output)
        for data, output in zip(ours, original, strict=True):
            total = position_count(output, layer)
            positions = np.arange(total) if total <= wanted else self._rng.choice(total, wanted, replace=False)
            rows = sample_rows(layer, data, kernel, positions, output.shape)
            moments.add(rows, rows_at(output, layer, positions)[:, kept])
        return moments

    def _kept_channels(self, name: str, axis: int) -> np.ndarray:
        labels = self._analysis.labelling.axes[name][axis]
        if labels is None:
            return np.ones(self._analysis.probe.tensors[name].shape[axis], bool)
        return self._kept[self._analysis.classes.class_of[labels]]

    def _recalibrate(self, output: str, place: OutputChannels) -> bool:
        """Match mean and variance of the layer's output channels to the original's; whether anything had to move."""
        kept = self._kept_channels(output, place.axis)
        wanted = channel_statistics(self.original.run.values(output), place.axis)
        mean, variance = (value[kept] for value in wanted)
        our_mean, our_variance = channel_statistics(self.ours.run.values(output), place.axis)
        scale = rescaling(variance, our_variance, mean)
        shift = mean - scale * our_mean if place.takes_shift else np.zeros_like(mean)
        spread = np.sqrt(variance.mean()) + np.finfo(np.float64).tiny
        still = np.abs(scale - 1).max() < NEGLIGIBLE and np.abs(shift).max() < NEGLIGIBLE * spread
        if still or not np.isfinite(shift).all():
            return False
        normalised = self._synthetic and place.sign < 0
        for model in (self.fitted, self.ours.model):
            rescale(model, place, scale, np.zeros_like(shift) if normalised else shift)
        along = [1] * len(self._analysis.probe.tensors[output].shape)
        along[place.axis] = -1
        inside = shift if place.shift_after is None else np.zeros_like(shift)
        self.ours.run.update(output, lambda value: _affine(value, scale.reshape(along), inside.reshape(along)))
        return True

    def _replace(self, name: str, value: np.ndarray) -> None:
        for model in (self.fitted, self.ours.model):
            model.replace(name, value)

    def _move_statistics(
        self,
        node: onnx.NodeProto,
        original: tuple[np.ndarray, np.ndarray],
        ours: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Move a BatchNormalization's running statistics as the samples' statistics moved."""
        constants = LayerReader(self.fitted)
        found = [constants.constant(name) for name in node.input[3:5]]
        if found[0] is None or found[1] is None:
            return
        mean_name, mean = found[0]
        variance_name, variance = found[1]
        kept = self._kept_channels(node.output[0], 1)
        scale = rescaling(ours[1], original[1][kept], ours[0])
        moved = ours[0] + scale * (mean - original[0][kept])
        if not np.isfinite(moved).all():
            return
        self.fitted.replace(mean_name, moved.astype(mean.dtype))
        self.fitted.replace(variance_name, (variance * scale**2).astype(variance.dtype))


def _affine(value: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    result = value * scale.astype(value.dtype)
    result += shift.astype(value.dtype)
    return result


def rescaling(wanted: np.ndarray, found: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Factor that brings variance `found` to `wanted`, all float64 (channels,), within [1/MAX_RESCALE, MAX_RESCALE];
    1 for channels that hardly vary in either, compared with their `mean` and with the other channels."""
    floor = NEGLIGIBLE * (mean**2 + NEGLIGIBLE * wanted.mean()) + np.finfo(np.float64).tiny
    alive = (wanted > floor) & (found > floor)
    ratio = np.sqrt(np.where(alive, wanted, 1) / np.where(alive, found, 1))
    return np.clip(ratio, 1 / MAX_RESCALE, MAX_RESCALE)
