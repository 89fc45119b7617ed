"""Which features of an axis belong to one channel: behind a Flatten, each channel is as many as its map has places."""

from __future__ import annotations

import numpy as np


def channel_features(classes: np.ndarray) -> np.ndarray | None:
    """The features of each class of an axis, int64 (channels, features per channel), classes in ascending order.

    `classes`: int64 (features,). None where some classes have more features than others.
    """
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) == 0 or (counts != counts[0]).any():
        return None
    return np.argsort(classes, kind="stable").reshape(len(counts), -1)


def by_channel(values: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Values (rows, features) as (rows x features per channel, channels); the values themselves where these are the
    same."""
    if np.array_equal(features, np.arange(values.shape[1])[:, None]):
        return values
    return values[:, features].transpose(0, 2, 1).reshape(-1, len(features))
