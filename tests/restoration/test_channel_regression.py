"""Mixing of input channels: features that are one channel move together."""

import numpy as np
import pytest

from lbyl_onnx.restoration.channel_regression import mixed_weight, repeats


def test_repeats():
    """Three channels of two features each, whatever their order."""
    found = repeats(np.array([5, 2, 9, 2, 5, 9]))
    np.testing.assert_array_equal(found.features, [[1, 3], [0, 4], [2, 5]])
    values = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(found.rows(values), [[1, 0, 2], [3, 4, 5], [7, 6, 8], [9, 10, 11]])


@pytest.mark.parametrize("classes", [[], [1, 1, 2]], ids=str)
def test_uneven_repeats(classes):
    assert repeats(np.array(classes, int)) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_mixed_weight(axis):
    """Reading channels that are made of others by the mixing gives what the mixed weight reads of these."""
    rng = np.random.default_rng(0)
    classes = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    left = classes != 1
    before, after = repeats(classes), repeats(classes[left])
    mixing = rng.standard_normal((3, 2))
    weight = rng.standard_normal((9, 4) if axis == 0 else (4, 9)).astype(np.float32)
    kept = rng.standard_normal((5, 6))
    whole = np.empty((5, 9))
    whole[:, before.features] = np.einsum("uk,nkr->nur", mixing, kept[:, after.features])
    mixed = mixed_weight(weight, axis, before, after, mixing)
    assert mixed.dtype == np.float32 and mixed.shape == ((6, 4) if axis == 0 else (4, 6))
    read = (lambda rows, matrix: rows @ matrix) if axis == 0 else (lambda rows, matrix: rows @ matrix.T)
    np.testing.assert_allclose(read(kept, mixed), read(whole, weight), rtol=1e-5, atol=1e-5)
