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

from ..channels.groups import Analysis, ChannelGroup
from ..channels.pooling import before_pooling
from ..model.graph import GraphIndex
from ..model.weight_layer import WEIGHT_OPS
from ..selection.plan import Choice
from .bias_correction import match, move_running_statistics, recalibrate
from .layer_fit import FittedLayer, fit_channels, fit_rows
from .methods import Outcome, Restoration, Restored, RestoreTask, register
from .output_channels import OutputChannels, output_channels
from .paired_run import PairedRun, selected

NAME = "moments"
MAX_INPUTS = 5120
"""Longest row that is fitted whole; layers with longer ones, or with fewer rows than a row is long, have their input
channels mixed."""
MIN_ROWS, ROWS_PER_INPUT = 8192, 4
"""Rows that a fit should rest on: the larger of MIN_ROWS and ROWS_PER_INPUT for each input."""


@dataclass(frozen=True)
class LayerFit:
    """What was done at one weight layer. `error`: the share of the original output's variance that the fit leaves on
    the samples (None: not fitted); `condition`: condition number of the ridge system; `recalibrated`: whether mean and
    variance of the output had to be matched."""

    error: float | None = None
    condition: float | None = None
    recalibrated: bool = False


def restore_from_activations(task: RestoreTask) -> Restored:
    """Cut, and fit every layer in the original's order."""
    assert task.calibration is not None
    pair = PairedRun(task.analysis, task.plan.kept, task.calibration, task.runtime)
    try:
        layers = _LayerByLayer(pair, task).fit()
    finally:
        pair.close()
    outcomes = tuple(_outcome(task.analysis, choice, layers) for choice in task.plan.choices)
    return Restored(pair.fitted, outcomes)


class _LayerByLayer:
    def __init__(self, pair: PairedRun, task: RestoreTask) -> None:
        self._pair = pair
        self._tell = task.tell
        self._rng = np.random.default_rng(task.options.seed)
        self._index = GraphIndex(pair.fitted)
        self._original = GraphIndex(pair.analysis.model)
        self._selected = selected(pair.analysis.model.proto.graph)

    def fit(self) -> dict[str, LayerFit]:
        """Visit the weight layers; what was done at each, by its output's name."""
        nodes = {node.output[0]: node for node in self._index.nodes}
        layers = {}
        all_nodes = self._pair.analysis.model.proto.graph.node
        for number, node in enumerate(all_nodes):
            if node.op_type in WEIGHT_OPS and node.output[0] in nodes:
                self._tell(node.name or node.output[0], number / len(all_nodes))
                done = self._visit(nodes[node.output[0]])
                if done is not None:
                    layers[node.output[0]] = done
        self._pair.finish()
        move_running_statistics(self._pair, self._index)
        return layers

    def _visit(self, node: onnx.NodeProto) -> LayerFit | None:
        place = output_channels(self._index, node)
        if place is None:
            return None
        normalised = self._is_normalised(place)
        fitted = self._fit(place)
        if fitted is not None:
            self._pair.write(place.layer.weight, fitted.weight)
        if normalised:
            return None if fitted is None else LayerFit(fitted.error, fitted.condition, recalibrated=True)
        if fitted is not None and fitted.wanted is not None and fitted.found is not None:
            moved = match(self._pair.changing, place, fitted.wanted, fitted.found) is not None
        else:
            lagging = self._pair.rows(place.name, place.axis, front=True) >= MIN_ROWS
            moved = recalibrate(self._pair, place, lagging)
        if fitted is None:
            return LayerFit(recalibrated=True) if moved else None
        return LayerFit(fitted.error, fitted.condition, moved)

    def _is_normalised(self, place: OutputChannels) -> bool:
        """Whether a BatchNormalization behind the layer uses the samples' statistics, which matches them by itself."""
        return place.sign < 0 and place.name in self._pair.cut.normalised

    def _fit(self, place: OutputChannels) -> FittedLayer | None:
        """New weights for a layer; None where it has nothing to make up for or cannot be fitted."""
        pair, layer = self._pair, place.layer
        before, after = layer.weight.read(pair.original.model), layer.weight.read(pair.fitted)
        lossy = layer.channels_read(after) < layer.channels_read(before)
        if not layer.is_rows or layer.data in self._selected or not (lossy or not pair.synthetic):
            return None
        inputs = layer.inputs(after)
        rows = max(MIN_ROWS, ROWS_PER_INPUT * min(inputs, MAX_INPUTS))
        scarce = lossy and pair.rows(place.name, place.axis) < ROWS_PER_INPUT * inputs
        pooled = before_pooling(pair.analysis, self._original, layer.data, layer.data_axis) if scarce else None
        if pooled is not None and pair.has(pooled[0]):
            mixed = self._mix(place, *pooled, rows)
            if mixed is not None:
                return mixed
        lagging = pair.rows(place.name, place.axis, front=True) >= rows
        pair.cut.run.approach(place.name, lagging=lagging)
        if lossy and (inputs > MAX_INPUTS or pair.rows(place.name, place.axis) < inputs):
            mixed = self._mix(place, layer.data, layer.data_axis, rows)
            if mixed is not None:
                return mixed
        if inputs > MAX_INPUTS:
            return None
        pair.original.run.reach(place.name, lagging=lagging)
        return fit_rows(pair, place, rows, self._rng)

    def _mix(self, place: OutputChannels, name: str, axis: int, rows: int) -> FittedLayer | None:
        """A fit of the layer's input channels, measured on tensor `name`."""
        self._pair.reach(name, lagging=self._pair.rows(name, axis, front=True) >= rows)
        return fit_channels(self._pair, place, name, axis, rows, self._rng)


def _outcome(analysis: Analysis, choice: Choice, layers: dict[str, LayerFit]) -> Outcome:
    """What the fits of single layers mean for one group."""
    if not choice.removed.any():
        return Outcome()
    nodes = analysis.model.proto.graph.node
    consumers = {axis.name: layers.get(nodes[axis.node].output[0], LayerFit()) for axis in choice.group.consumers}
    touched = {axis.name: nodes[axis.node].output[0] for axis in choice.group.producers + choice.group.consumers}
    fits = {name: done for name, done in consumers.items() if done.error is not None}
    missed = [name for name in consumers if name not in fits]
    note = f"not fitted: {', '.join(missed)}" if missed else None
    return Outcome(
        restored=NAME if fits else None,
        note=note if consumers else "no weight consumes these channels",
        error=max((done.error or 0.0 for done in fits.values()), default=None),
        condition=max((done.condition or 0.0 for done in fits.values()), default=None),
        recalibrated=tuple(name for name, output in touched.items() if layers.get(output, LayerFit()).recalibrated),
    )


def _shared(analysis: Analysis, group: ChannelGroup) -> str | None:
    """A weight that several nodes read cannot be fitted to what each of them needs."""
    for axis in group.consumers:
        if axis.weight is not None and not axis.weight.exclusive:
            return f"the weight of {axis.name!r} is shared by several nodes, so it cannot be fitted"
    return None


register(Restoration(NAME, restore_from_activations, needs_samples=True, obstacle=_shared))
