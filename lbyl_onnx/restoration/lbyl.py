"""Closed-form restoration from weights alone: which kept channels stand in for a removed one, and how strongly.

A restoration of a layer is a matrix S, float64 (removed, kept): removed channel j is replaced by the sum of
`S[j, k]` times kept channel k. Notation as in DESIGN section 3: w and b are the folded filters and biases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from ..channels.folding import ProducerLayer
from ..selection.importance import rows

METHODS = ("moments", "lbyl", "neuron-merging", "none")
MERGING_MIX = 0.85
MERGING_MIN_SIMILARITY = 0.1


@dataclass(frozen=True)
class Strength:
    """Penalties of LBYL: `lambda1` weighs the error of the BatchNormalization's shift, `lambda2` the size of S."""

    lambda1: float
    lambda2: float


def lbyl(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, strength: Strength) -> np.ndarray:
    """S of LBYL (Lee, Kim, Choi, arXiv 2502.08474): each removed filter leaves its information to many kept ones.

    `kept`, `removed`: int64 channel numbers. Per removed filter j it minimises

        |w_j - W_K s|^2 + q_j (lambda1 (b_j - b_K.s)^2 + lambda2 |s|^2),    q_j = scale_j^2 (1 without
        BatchNormalization)

    and for a fully connected layer |[w, b]_j - [W, b]_K s - const|^2 + lambda2 |s|^2. Returns float64 (removed, kept).
    """
    if layer.is_matrix:
        centred = rows(layer) - rows(layer).mean(axis=1, keepdims=True)
        return _ridge(centred[kept], centred[removed], np.full(len(removed), strength.lambda2))
    weights, bias = layer.folded_filters, layer.folded_bias
    scale = layer.scale[removed] ** 2 if layer.normalised else np.ones(len(removed))
    return _ridge(
        weights[kept],
        weights[removed],
        scale * strength.lambda2,
        bias[kept],
        bias[removed],
        scale * strength.lambda1,
    )


def _ridge(
    basis: np.ndarray,
    targets: np.ndarray,
    penalty: np.ndarray,
    basis_bias: np.ndarray | None = None,
    target_bias: np.ndarray | None = None,
    bias_weight: np.ndarray | None = None,
) -> np.ndarray:
    """Row j minimises |t_j - s basis|^2 + penalty_j |s|^2 + bias_weight_j (c_j - s.basis_bias)^2.

    `basis` (K, d), `targets` (P, d); the rest (K,) or (P,). Only the two weights differ between the rows, so one
    eigendecomposition of the Gram matrix serves them all, and the bias is a rank-one update (Sherman-Morrison):
    O(K^3 + P K^2) in all. In directions that vanish beside the largest (penalty 0, singular Gram matrix) the targets
    have no part, and only the bias may use them: the minimum-norm solution.
    """
    values, vectors = linalg.eigh(basis @ basis.T)
    numbers = np.finfo(np.float64)
    floor = max(4 * values[-1] * max(basis.shape) * numbers.eps, numbers.tiny**0.5)
    spectrum = np.maximum(values, 0)[None, :] + penalty[:, None]
    inverse = 1 / np.maximum(spectrum, floor)
    solution = np.where(spectrum > floor, (targets @ basis.T) @ vectors * inverse, 0)
    if basis_bias is not None and target_bias is not None and bias_weight is not None:
        direction = basis_bias @ vectors
        reached = inverse * direction
        missing = target_bias - solution @ direction
        gain = bias_weight * missing / (1 + bias_weight * (reached @ direction))
        solution = solution + gain[:, None] * reached
    return solution @ vectors.T


def neuron_merging(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, _: Strength) -> np.ndarray:
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
        distance = MERGING_MIX * distance + (1 - MERGING_MIX) * shift
    partner = np.argmin(distance, axis=1)
    line = np.arange(len(removed))
    merged = np.zeros(similarity.shape)
    similar = similarity[line, partner] >= MERGING_MIN_SIMILARITY
    merged[line[similar], partner[similar]] = ratio[line, partner][similar]
    return merged


Restorer = Callable[[ProducerLayer, np.ndarray, np.ndarray, Strength], np.ndarray]
RESTORERS: dict[str, Restorer] = {"lbyl": lbyl, "neuron-merging": neuron_merging}


def residual_error(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, mixing: np.ndarray) -> float:
    """Share of the removed filters' energy that the kept ones do not reproduce: |W_P - S W_K|^2 / |W_P|^2, with the
    bias as one more weight."""
    weights = np.column_stack([layer.folded_filters, layer.folded_bias])
    energy = float((weights[removed] ** 2).sum())
    return float(((weights[removed] - mixing @ weights[kept]) ** 2).sum()) / energy if energy else 0.0
