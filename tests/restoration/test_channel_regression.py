"""Mixing of input channels: features that are one channel move together."""

import numpy as np
import pytest

from lbyl_onnx.channels.features import channel_features
from lbyl_onnx.restoration.channel_regression import mixed_weight


@pytest.mark.parametrize("axis", [0, 1])
def test_mixed_weight(axis):
    """Reading channels that are made of others by the mixing gives what the mixed weight reads of these."""
    rng = np.random.default_rng(0)
    classes = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    left = classes != 1
    before, after = channel_features(classes), channel_features(classes[left])
    mixing = rng.standard_normal((3, 2))
    weight = rng.standard_normal((9, 4) if axis == 0 else (4, 9)).astype(np.float32)
    kept = rng.standard_normal((5, 6))
    whole = np.empty((5, 9))
    whole[:, before] = np.einsum("uk,nkr->nur", mixing, kept[:, after])
    mixed = mixed_weight(weight, axis, before, after, mixing)
    assert mixed.dtype == np.float64 and mixed.shape == ((6, 4) if axis == 0 else (4, 6))
    read = (lambda rows, matrix: rows @ matrix) if axis == 0 else (lambda rows, matrix: rows @ matrix.T)
    np.testing.assert_allclose(read(kept, mixed), read(whole, weight), rtol=1e-9)


def test_a_kernel_mixes_alike_at_every_tap():
    rng = np.random.default_rng(1)
    weight, mixing = rng.standard_normal((4, 3, 2, 2)), rng.standard_normal((3, 2))
    before, after = channel_features(np.arange(3)), channel_features(np.arange(2))
    mixed = mixed_weight(weight, 1, before, after, mixing)
    for tap in np.ndindex(2, 2):
        np.testing.assert_allclose(mixed[(..., *tap)], weight[(..., *tap)] @ mixing)
