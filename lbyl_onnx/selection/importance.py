"""Criteria that look at weights alone: those of least importance are removed.

As published, a fully connected layer's row is [w, b] and a convolution's filter is taken without bias or
BatchNormalization.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from ..channels.folding import ProducerLayer
from ..errors import UsageError
from .criteria import Ranking, RankingTask, criterion, layer_criterion


def rows(layer: ProducerLayer) -> np.ndarray:
    """What the published criteria compare, float64 (channels, d or d + 1): filters, with their bias if fully
    connected."""
    return np.column_stack([layer.filters, layer.bias]) if layer.is_matrix else layer.filters


@layer_criterion("l1", order=1)
def l1(layer: ProducerLayer) -> np.ndarray:
    """Sum of a filter's absolute weights."""
    return np.abs(rows(layer)).sum(axis=1)


@layer_criterion("l2")
def l2(layer: ProducerLayer) -> np.ndarray:
    """Norm of a filter."""
    return np.linalg.norm(rows(layer), axis=1)


@layer_criterion("l2-gm")
def geometric_median(layer: ProducerLayer) -> np.ndarray:
    """Sum of distances to all other filters (He et al., CVPR 2019)."""
    return cdist(rows(layer), rows(layer)).sum(axis=1)


@layer_criterion("bn-scale", comparable=True)
def bn_scale(layer: ProducerLayer) -> np.ndarray:
    """|γ| of the BatchNormalization behind a filter (Liu et al., ICCV 2017). UsageError where there is none."""
    if layer.gamma is None:
        raise UsageError(
            f"criterion bn-scale needs a BatchNormalization after every producer, but {layer.axis.op} "
            f"{layer.axis.name!r} has none (exporters fold it); use --criterion obs, or l2, or --exclude this node"
        )
    return np.abs(layer.gamma)


@criterion("random")
def at_random(task: RankingTask) -> dict[int, Ranking]:
    """A random order, from the seed."""
    rng = np.random.default_rng(task.options.seed)
    return {number: Ranking(rng.permutation(group.units).astype(np.float64)) for number, group in task.groups.items()}
