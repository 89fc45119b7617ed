"""Match mean and variance of layers' outputs to the original's, channel by channel."""

from __future__ import annotations

import numpy as np
import onnx

from ..calibration.statistics import Statistics, channel_statistics, within
from ..model.graph import GraphIndex
from ..model.model import Model
from .output_channels import OutputChannels, rescale
from .paired_run import PairedRun

MAX_RESCALE = 3.0
NEGLIGIBLE = 1e-6


def rescaling(wanted: np.ndarray, found: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Factor that brings variance `found` to `wanted`, all float64 (channels,), within [1/MAX_RESCALE, MAX_RESCALE];
    1 for channels that hardly vary in either, compared with their `mean` and with the other channels."""
    floor = NEGLIGIBLE * (mean**2 + NEGLIGIBLE * wanted.mean()) + np.finfo(np.float64).tiny
    alive = (wanted > floor) & (found > floor)
    ratio = np.sqrt(np.where(alive, wanted, 1) / np.where(alive, found, 1))
    return np.clip(ratio, 1 / MAX_RESCALE, MAX_RESCALE)


def match(
    models: tuple[Model, ...], place: OutputChannels, wanted: Statistics, found: Statistics
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rescale a layer's output channels, in all `models`, from the statistics `found` to those `wanted`.

    Returns factors and shifts, float64 (channels,), or None where nothing has to move, or where there is no place
    for a shift, as a factor alone would move the mean.
    """
    if not place.takes_shift:
        return None
    scale = rescaling(wanted.variance, found.variance, wanted.mean)
    shift = wanted.mean - scale * found.mean
    spread = np.sqrt(wanted.variance.mean()) + np.finfo(np.float64).tiny
    still = np.abs(scale - 1).max() < NEGLIGIBLE and np.abs(shift).max() < NEGLIGIBLE * spread
    if still or not np.isfinite(shift).all():
        return None
    for model in models:
        rescale(model, place, scale, shift)
    return scale, shift


def recalibrate(pair: PairedRun, place: OutputChannels, lagging: bool) -> bool:
    """Match the output of a layer, measured in both models, to the original's; whether it had to move."""
    pair.reach(place.name, lagging=lagging)
    kept = pair.kept_channels(place.name, place.axis)
    wanted = channel_statistics(pair.original.run.values(place.name, pair.level), place.axis)
    found = channel_statistics(pair.cut.run.values(place.name, pair.level), place.axis)
    if wanted is None or found is None:
        return False
    moved = match(pair.changing, place, Statistics(wanted.mean[kept], wanted.variance[kept]), found)
    if moved is None:
        return False
    scale, shift = moved
    along = [1] * len(pair.analysis.probe.tensors[place.name].shape)
    along[place.axis] = -1
    inside = shift if place.shift_after is None else np.zeros_like(shift)
    pair.cut.run.update(place.name, lambda value: _affine(value, scale.reshape(along), inside.reshape(along)))
    return True


def move_running_statistics(pair: PairedRun, index: GraphIndex) -> None:
    """Move the running statistics of each BatchNormalization of the cut model as the samples' statistics moved.

    `index`: of `pair.fitted`.
    """
    nodes = {node.output[0]: node for node in index.nodes}
    for name, statistics in pair.cut.statistics.items():
        if name in pair.original.statistics:
            _move(pair, index, nodes[name], pair.original.statistics[name], statistics)


def _move(pair: PairedRun, index: GraphIndex, node: onnx.NodeProto, original: Statistics, ours: Statistics) -> None:
    running = [index.constant(name) for name in node.input[3:5]]
    values = [constant.read(pair.fitted) for constant in running if constant is not None]
    if len(values) < 2:
        return
    mean, variance = values
    kept = pair.kept_channels(node.output[0], 1)
    scale = rescaling(ours.variance, original.variance[kept], ours.mean)
    moved = ours.mean + scale * (mean - original.mean[kept])
    if not np.isfinite(moved).all():
        return
    for slot, value in ((3, within(moved, mean.dtype)), (4, within(variance * scale**2, variance.dtype))):
        own = index.own_constant(node.input[slot])
        if own is None:
            node.input[slot] = pair.fitted.free_name(f"{node.output[0]}_statistics_{slot}")
            pair.fitted.add(node.input[slot], value)
        else:
            own.write(pair.fitted, value)


def _affine(value: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    result = value * scale.astype(value.dtype)
    result += shift.astype(value.dtype)
    return result
