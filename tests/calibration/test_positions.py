"""Classes at each position, and what answers there tell of their samples."""

import ml_dtypes
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from lbyl_onnx.calibration.positions import (
    LEAST_LOGITS,
    SURE,
    Information,
    PositionClasses,
    information,
    position_classes,
)

IMAGES = {"x": np.zeros((2, 3, 9, 8), np.float32)}


def scores(*shape, sure=20.0, dtype=np.float32, seed=0):
    """Random ones, of which a softmax is `sure` on average."""
    return (sure * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize(("shape", "axis"), [((2, 7, 5), 2), ((2, 7, 5), 1), ((2, 5, 4, 4), 1), ((2, 4, 4, 5), 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_probabilities_say_along_which_axis_they_lie(shape, axis, dtype):
    found = position_classes(softmax(scores(*shape), axis=axis).astype(dtype), 2, {})
    assert found == PositionClasses(axis, softmax=False)


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 9, 8), 1), ((2, 9, 8, 5), 3)])
@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=("NCHW", "NHWC"))
def test_scores_as_large_as_the_image_are_of_classes(shape, axis, layout):
    images = {name: array.transpose(layout) for name, array in IMAGES.items()}
    assert position_classes(scores(*shape), 2, images) == PositionClasses(axis, softmax=True)


OTHERS = {
    "colours": scores(2, LEAST_LOGITS - 1, 9, 8),
    "turned": scores(2, 5, 8, 9),
    "larger": scores(2, 5, 18, 16),
    "unsure": scores(2, 5, 9, 8, sure=0.01),
    "flat": scores(2, 5, 72),
    "rows": scores(3, 5, 9, 8),
    "integers": scores(2, 5, 9, 8).astype(np.int64),
    "ones": np.ones((2, 4, 1), np.float32),
    "classes": softmax(scores(2, 5), axis=1),
    "pooled": softmax(scores(2, 5, 1, 1), axis=1),
    "doubled": 2 * softmax(scores(2, 7, 5), axis=2),
    "nothing found": np.ones((2, 0, 5), np.float32),
    "nothing found, flat": np.ones((2, 5, 0), np.float32),
}


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
def test_others_are_not(value):
    assert position_classes(value, 2, IMAGES) is None


def test_how_sure_scores_have_to_be():
    """Of one high score in five at every position, by the probability that it stands for."""
    for share, expected in ((SURE - 0.01, None), (SURE + 0.01, PositionClasses(1, True))):
        value = np.zeros((2, 5, 9, 8), np.float32)
        value[:, 2] = np.log(4 * share / (1 - share))
        assert position_classes(value, 2, IMAGES) == expected


@pytest.mark.parametrize(("axis", "known"), [(1, False), (3, False), (1, True), (2, True)])
def test_a_divergence_is_the_sum_over_positions(axis, known):
    values = [scores(2, 5, 5, 5, sure=2.0, seed=seed) for seed in range(2)]
    answers = [softmax(value.astype(np.float64), axis=axis) for value in values]
    given = [each.astype(np.float32) for each in answers] if known else values
    classes = PositionClasses(axis, not known)
    found = classes.divergence(classes.probabilities(given[0]), given[1])
    assert found == pytest.approx(rel_entr(*answers).sum(), rel=1e-5)


def test_of_many_positions_some_are_looked_at(monkeypatch):
    """From the first to the last, of all samples the same."""
    monkeypatch.setattr("lbyl_onnx.calibration.positions.MOST_POSITIONS", 5)
    value = softmax(scores(2, 5, 3, 3, sure=2.0).astype(np.float64), axis=1)
    found = list(PositionClasses(1, softmax=False).probabilities(value))
    np.testing.assert_allclose(found, value.reshape(2, 5, 9)[:, :, ::2].transpose(0, 2, 1))


def test_information_is_how_far_answers_are_from_their_mean():
    value = scores(6, 4, 5, sure=2.0)
    answers = softmax(value.astype(np.float64), axis=2)
    expected = rel_entr(answers, answers.mean(axis=0)).sum() * 6 / 5
    given = (each for part in (value[:2], value[2:]) for each in PositionClasses(2, True).probabilities(part))
    assert information(given) == pytest.approx(expected, rel=1e-6)


def test_information_of_equal_answers_is_none():
    answers = softmax(scores(1, 4, 5, sure=1.0), axis=2)
    assert information(np.repeat(answers, 3, axis=0)) == 0


def test_information_that_is_not_known():
    assert Information().nats is None
    one, other = softmax(scores(4, 5), axis=1), softmax(scores(3, 5), axis=1)
    for answers in ([one], [one, other], [one, one, other]):
        found = Information()
        for each in answers:
            found.add(each)
        assert found.nats is None and found.samples == len(answers)
    assert information([one, other]) == 0


def test_a_batch_in_which_nothing_was_found_has_no_answers():
    """As a detector's list of objects may be empty."""
    classes, empty = PositionClasses(2, False), np.ones((1, 0, 5), np.float32)
    assert classes.divergence(classes.probabilities(empty), empty) == 0
