"""What looks like scores of classes."""

import numpy as np
import pytest

from lbyl_onnx.calibration.classes import LEAST_CONFIDENCE, class_outputs, is_sure


def outputs(**shapes):
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_one_number_at_each_place_of_a_detector_is_no_class():
    detector = outputs(scores=(2, 40, 1), boxes=(2, 40, 4), other=(2, 30, 1), kind=(2, 5))
    assert class_outputs(detector, 2) == ["other", "kind"]


@pytest.mark.parametrize("shape", [(2, 40), (2, 40, 1), (2, 40, 1, 1)])
def test_a_classifier_may_have_further_axes_and_features_beside(shape):
    assert class_outputs(outputs(scores=shape, features=(2, 30, 7), maps=(2, 40, 6, 6)), 2) == ["scores"]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_classifier_is_surer_than_chance(classes):
    limit = 1 / classes + LEAST_CONFIDENCE * (1 - 1 / classes)
    assert is_sure(limit + 1e-9, classes) and not is_sure(limit - 1e-9, classes)
