"""Importance of the units of a group: those of least importance are removed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from ..channels.folding import LayerReader, ProducerLayer
from ..channels.groups import ChannelGroup
from ..errors import UsageError

CRITERIA = ("obs", "l1", "l2", "l2-gm", "random", "bn-scale")


def importance(group: ChannelGroup, reader: LayerReader, criterion: str, rng: np.random.Generator) -> np.ndarray:
    """Importance of each unit, float64 of shape (units,).

    `l1`, `l2`: norm of a unit's filters; `l2-gm`: sum of distances to all other filters (He et al. 2019); `bn-scale`:
    |γ| of the BatchNormalization behind the filter (Liu et al. 2017); `random`. As published, a fully connected
    layer's row is [w, b] and a convolution's filter is taken without bias or BatchNormalization. A unit of several
    filters or producers has the norm of the vector of their importances: L1 for `l1`, else L2. Raises UsageError for
    `bn-scale` where a producer has no BatchNormalization.
    """
    if criterion == "random":
        return rng.permutation(group.units).astype(np.float64)
    order = 1 if criterion == "l1" else 2
    total = np.zeros(group.units)
    for producer in group.producers:
        layer = reader.read(group, producer)
        if layer is None:
            continue
        scores = _SCORES[criterion](layer)
        own = producer.units >= 0
        np.add.at(total, producer.units[own], scores[own] ** order)
    return total ** (1 / order)


def rows(layer: ProducerLayer) -> np.ndarray:
    """What the published criteria compare, float64 (channels, d or d + 1): filters, with their bias if fully
    connected."""
    return np.column_stack([layer.filters, layer.bias]) if layer.is_matrix else layer.filters


def _l1(layer: ProducerLayer) -> np.ndarray:
    return np.abs(rows(layer)).sum(axis=1)


def _l2(layer: ProducerLayer) -> np.ndarray:
    return np.linalg.norm(rows(layer), axis=1)


def _geometric_median(layer: ProducerLayer) -> np.ndarray:
    return cdist(rows(layer), rows(layer)).sum(axis=1)


def _bn_scale(layer: ProducerLayer) -> np.ndarray:
    if layer.gamma is None:
        raise UsageError(
            f"criterion bn-scale needs a BatchNormalization after every producer, but {layer.axis.op} "
            f"{layer.axis.name!r} has none; use --criterion l2, or --exclude this node"
        )
    return np.abs(layer.gamma)


_SCORES: dict[str, Callable[[ProducerLayer], np.ndarray]] = {
    "l1": _l1,
    "l2": _l2,
    "l2-gm": _geometric_median,
    "bn-scale": _bn_scale,
}
