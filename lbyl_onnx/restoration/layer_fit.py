"""The fit of one layer: new weights with which the cut model's input gives the original's output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..calibration.im2col import rows_at, sample_rows
from ..calibration.ridge_regression import RowMoments
from ..calibration.statistics import Statistics
from ..channels.features import by_channel, channel_features
from .channel_regression import mixed_weight
from .output_channels import OutputChannels
from .paired_run import PairedRun

ROW_ELEMENTS = 2**22
"""More rows are taken where those that hold so many elements, outputs included, are more."""


@dataclass(frozen=True)
class FittedLayer:
    """`weight`: float64, of the shape of the cut model's. `error`: the share of the output's variance that it leaves on
    the samples; `condition`: condition number of the ridge system. `wanted`: statistics of the original's output
    channels, `found`: of the fit's, both None where the fit does not tell."""

    weight: np.ndarray
    error: float
    condition: float
    wanted: Statistics | None = None
    found: Statistics | None = None


def fit_rows(pair: PairedRun, place: OutputChannels, rows: int, rng: np.random.Generator) -> FittedLayer | None:
    """Fit whole rows, every tap of a kernel by itself, to the original's output; None where rows are not finite.

    Both models must have run up to the layer.
    """
    layer = place.layer
    weight = layer.weight.read(pair.fitted)
    present = layer.matrix(weight)
    groups, outputs, inputs = present.shape
    rows = max(rows, ROW_ELEMENTS // (groups * (outputs + inputs)))
    moments = RowMoments(groups, outputs, inputs, pair.fold_count)
    kernel = weight.shape[2:] if layer.is_convolution else ()
    kept = pair.kept_channels(layer.name, layer.channel_axis)
    left: np.ndarray | slice = slice(None) if kept.all() else kept
    for fold, data, output in pair.pairs(layer, layer.name):
        positions = pair.positions(output, layer, rows, rng)
        taken = sample_rows(layer, data, kernel, positions, output.shape)
        moments.add(taken, rows_at(output, layer, positions)[:, left], fold)
    if not moments.finite:
        return None
    fitted = moments.solve(present, centred=place.takes_shift)
    bias = np.zeros(1) if place.bias is None else layer.beta * place.bias.read(pair.fitted)
    found = Statistics(fitted.fit.mean + bias.reshape(-1), fitted.fit.variance)
    return FittedLayer(layer.weight_like(fitted.matrix, weight), fitted.error, fitted.condition, fitted.wanted, found)


def fit_channels(
    pair: PairedRun, place: OutputChannels, name: str, axis: int, rows: int, rng: np.random.Generator
) -> FittedLayer | None:
    """Mix the layer's input channels (`channel_regression`); None where these cannot be told apart, are as many as the
    inputs of a row, or not finite.

    `name`, `axis`: the tensor that they are measured on, which holds the channels of the layer's input, and its axis of
    them. Both models must have run up to it.
    """
    layer, analysis = place.layer, pair.analysis
    labels = analysis.labelling.axes.get(layer.data, [None])[layer.data_axis]
    if labels is None or layer.groups > 1:
        return None
    classes = analysis.classes.class_of[labels]
    left = pair.kept_channels(layer.data, layer.data_axis)
    before, after = channel_features(classes), channel_features(classes[left])
    inputs = layer.inputs(layer.weight.read(pair.fitted))
    if before is None or after is None or (name == layer.data and len(after) == inputs):
        return None
    moments = RowMoments(1, len(before), len(after), pair.fold_count)
    for fold, x, y in pair.channels(name, axis, rows // before.shape[1], rng):
        moments.add(by_channel(x, after)[None], by_channel(y, before), fold)
    if not moments.finite:
        return None
    present = np.eye(len(before))[:, np.isin(np.unique(classes), classes[left])]
    fitted = moments.solve(present[None], centred=place.takes_shift)
    kept = pair.kept_channels(layer.name, layer.channel_axis)
    weight = np.compress(kept, layer.weight.read(pair.original.model), layer.output_axis)
    mixed = mixed_weight(weight, layer.input_axis, before, after, fitted.matrix[0])
    return FittedLayer(mixed, fitted.error, fitted.condition)
