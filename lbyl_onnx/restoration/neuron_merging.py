"""Neuron Merging (Kim, Kim, Park, Jeon, NeurIPS 2020): each removed filter goes to one kept filter."""

from __future__ import annotations

import numpy as np

from ..channels.folding import ProducerLayer
from ..options import PruneOptions
from ..selection.importance import rows

SHARE_OF_ANGLE = 0.85
"""Weight of the cosine distance beside the error of the shift."""
LEAST_SIMILARITY = 0.1


def neuron_merging(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, _: PruneOptions) -> np.ndarray:
    """S of Neuron Merging (Kim, Kim, Park, Jeon, NeurIPS 2020): each removed filter goes to one kept filter.

    The partner has the least cosine distance; with a BatchNormalization, the least of 0.85 cosine distance + 0.15
    error of the shift, the latter scaled to [0, 1] over the candidates. The scale is the ratio of folded norms. Below
    a cosine similarity of 0.1 a filter is dropped. Returns float64 (removed, kept).
    """
    weights = rows(layer) if layer.is_matrix else layer.folded_filters
    norms = np.linalg.norm(weights, axis=1)
    unit = weights / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
    similarity = unit[removed] @ unit[kept].T
    ratio = norms[removed][:, None] / np.maximum(norms[kept], np.finfo(np.float64).tiny)[None, :]
    distance = 1 - similarity
    if layer.normalised:
        bias = layer.folded_bias
        shift = np.abs(bias[removed][:, None] - ratio * bias[kept][None, :])
        low, high = shift.min(axis=1, keepdims=True), shift.max(axis=1, keepdims=True)
        shift = (shift - low) / np.maximum(high - low, np.finfo(np.float64).tiny)
        distance = SHARE_OF_ANGLE * distance + (1 - SHARE_OF_ANGLE) * shift
    partner = np.argmin(distance, axis=1)
    line = np.arange(len(removed))
    merged = np.zeros(similarity.shape)
    similar = similarity[line, partner] >= LEAST_SIMILARITY
    merged[line[similar], partner[similar]] = ratio[line, partner][similar]
    return merged
