"""What a weight layer reads for one output value, as rows: patches of a convolution's input, rows of a matrix."""

from __future__ import annotations

import numpy as np

from ..model.nodes import attribute
from ..model.weight_layer import WeightLayer


def position_count(output: np.ndarray, layer: WeightLayer) -> int:
    """How many positions (rows) an output of `layer` has."""
    channels = output.shape[1] if layer.is_convolution else output.shape[-1]
    return output.size // channels


def rows_at(output: np.ndarray, layer: WeightLayer, positions: np.ndarray) -> np.ndarray:
    """An output of `layer` at some of its positions, (rows, channels)."""
    if not layer.is_convolution:
        return output.reshape(-1, output.shape[-1])[positions]
    sample, place = np.divmod(positions, int(np.prod(output.shape[2:])))
    return output.reshape(*output.shape[:2], -1)[sample, :, place]


def sample_rows(
    layer: WeightLayer, data: np.ndarray, kernel: tuple[int, ...], positions: np.ndarray, output_shape: tuple[int, ...]
) -> np.ndarray:
    """Rows that the layer multiplies at some output positions, in the data's type (groups, rows, inputs of a row).

    `positions`: int64, indices into the output's (samples, *space), flattened; for matrices, rows of the data.
    `kernel`: the weight's spatial shape. Zero padding enters the rows as zeros, so borders are exact.
    """
    if not layer.is_convolution:
        return data.reshape(-1, data.shape[-1])[positions][None]
    space, size = output_shape[2:], data.shape[2:]
    strides = attribute(layer.node, "strides") or [1] * len(space)
    dilations = attribute(layer.node, "dilations") or [1] * len(space)
    padding = _padding(layer, size, kernel, space, strides, dilations)
    sample, *place = np.unravel_index(positions, (len(data), *space))
    taps = np.indices(kernel).reshape(len(kernel), -1)
    read, inside = [], np.ones((len(positions), taps.shape[1]), bool)
    for axis, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        at, tap = place[axis][:, None], taps[axis] * dilation - padding[axis]
        source, off = np.divmod(at - tap, stride) if layer.transposed else (at * stride + tap, 0)
        inside &= (source >= 0) & (source < size[axis]) & (off == 0)
        read.append(np.clip(source, 0, size[axis] - 1))
    flat = np.ravel_multi_index((np.broadcast_to(sample[:, None], inside.shape), *read), (len(data), *size))
    channels_last = np.ascontiguousarray(np.moveaxis(data, 1, -1))
    rows = channels_last.reshape(-1, data.shape[1]).take(flat, axis=0)
    rows[~inside] = 0
    split = rows.reshape(*flat.shape, layer.groups, -1)
    return np.moveaxis(split, 2, 0).reshape(layer.groups, len(positions), -1)


def _padding(
    layer: WeightLayer,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
) -> list[int]:
    """Zeros before each spatial axis, as `pads` or `auto_pad` say."""
    mode = attribute(layer.node, "auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max((o - 1) * s + (k - 1) * d + 1 - n, 0)
            for o, s, k, d, n in zip(output, strides, kernel, dilations, size, strict=True)
        ]
        return [t // 2 if mode == b"SAME_UPPER" else t - t // 2 for t in total]
    return (attribute(layer.node, "pads") or [0] * len(size))[: len(size)]
