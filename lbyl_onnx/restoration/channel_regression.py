"""Mix a layer's input channels: a fit with few unknowns, for layers whose whole rows would need more samples.

Every channel u of the original's input is expressed by the channels k of the cut model's own,
a_u = sum_k T_uk a_k + c_u, and the layer reads that: W'_k = sum_u T_uk W_u, with the same T at every tap of a kernel
and at every position of a Flatten.
"""

from __future__ import annotations

import numpy as np


def mixed_weight(
    weight: np.ndarray, axis: int, before: np.ndarray, after: np.ndarray, mixing: np.ndarray
) -> np.ndarray:
    """The weight that reads the kept channels as `mixing`, float64 (channels before, after), says; float64.

    `axis`: its input axis, of which `before` tells the features of each channel; `after` those of the result.
    """
    channels = np.moveaxis(weight, axis, 0)[before].astype(np.float64)
    mixed = np.tensordot(mixing, channels, axes=(0, 0))
    result = np.empty((after.size, *mixed.shape[2:]))
    result[after] = mixed
    return np.moveaxis(result, 0, axis)
