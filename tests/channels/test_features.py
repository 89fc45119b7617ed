"""Which features belong to one channel, and values arranged by channel."""

import numpy as np
import pytest

from lbyl_onnx.channels.features import by_channel, channel_features


def test_features_of_one_channel():
    """Three channels of two features each, whatever their order."""
    found = channel_features(np.array([5, 2, 9, 2, 5, 9]))
    np.testing.assert_array_equal(found, [[1, 3], [0, 4], [2, 5]])
    values = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(by_channel(values, found), [[1, 0, 2], [3, 4, 5], [7, 6, 8], [9, 10, 11]])


def test_channels_of_one_feature_each():
    """In their own order the values are not copied."""
    values = np.arange(6).reshape(2, 3)
    assert by_channel(values, channel_features(np.array([3, 5, 9]))) is values
    np.testing.assert_array_equal(by_channel(values, channel_features(np.array([5, 3, 9]))), values[:, [1, 0, 2]])


@pytest.mark.parametrize("classes", [[], [1, 1, 2]], ids=str)
def test_channels_of_uneven_features(classes):
    assert channel_features(np.array(classes, int)) is None
