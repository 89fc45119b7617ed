"""LBYL ("Leave Before You Leave", arXiv 2502.08474): each removed filter leaves its information to many kept ones."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from ..channels.folding import ProducerLayer
from ..options import PruneOptions
from ..selection.importance import rows


def lbyl(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, options: PruneOptions) -> np.ndarray:
    """S of LBYL (Lee, Kim, Choi, arXiv 2502.08474): each removed filter leaves its information to many kept ones.

    `kept`, `removed`: int64 channel numbers. Per removed filter j it minimises

        |w_j - W_K s|^2 + q_j (lambda1 (b_j - b_K.s)^2 + lambda2 |s|^2),    q_j = scale_j^2 (1 without
        BatchNormalization)

    and for a fully connected layer |[w, b]_j - [W, b]_K s - const|^2 + lambda2 |s|^2. Returns float64 (removed, kept).
    """
    if layer.is_matrix:
        centred = rows(layer) - rows(layer).mean(axis=1, keepdims=True)
        return _ridge(centred[kept], centred[removed], np.full(len(removed), options.lambda2))
    weights, bias = layer.folded_filters, layer.folded_bias
    scale = layer.scale[removed] ** 2 if layer.normalised else np.ones(len(removed))
    return _ridge(
        weights[kept],
        weights[removed],
        scale * options.lambda2,
        bias[kept],
        bias[removed],
        scale * options.lambda1,
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
