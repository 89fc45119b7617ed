"""Mix a layer's input channels: a fit with few unknowns, for layers whose whole rows would need more samples.

Every channel u of the original's input is expressed by the channels k of the cut model's own,
a_u = sum_k T_uk a_k + c_u, and the layer reads that: W'_k = sum_u T_uk W_u, with the same T at every tap of a kernel
and at every position of a Flatten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Repeats:
    """Which features of an axis are one channel. `features`: int64 (channels, repeats), the features of each."""

    features: np.ndarray

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Values (rows, features) as (rows x repeats, channels); the values themselves where these are the same."""
        if np.array_equal(self.features, np.arange(values.shape[1])[:, None]):
            return values
        return values[:, self.features].transpose(0, 2, 1).reshape(-1, len(self.features))


def repeats(classes: np.ndarray) -> Repeats | None:
    """The features (features,) of each class, classes in ascending order; None where some have more than others."""
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) == 0 or (counts != counts[0]).any():
        return None
    return Repeats(np.argsort(classes, kind="stable").reshape(len(counts), -1))


def mixed_weight(weight: np.ndarray, axis: int, before: Repeats, after: Repeats, mixing: np.ndarray) -> np.ndarray:
    """The weight that reads the kept channels as `mixing`, float64 (channels before, after), says.

    `axis`: its input axis, of which `before` tells the channels; `after` those of the result.
    """
    channels = np.moveaxis(weight, axis, 0)[before.features].astype(np.float64)
    mixed = np.tensordot(mixing, channels, axes=(0, 0))
    result = np.empty((after.features.size, *mixed.shape[2:]))
    result[after.features] = mixed
    return np.ascontiguousarray(np.moveaxis(result, 0, axis).astype(weight.dtype))
