"""What a classifier's answers lost: the definitions by hand, and what holds for any scores."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lbyl_onnx.calibration.classes import SMALLEST, are_probabilities, class_outputs, is_classes, probabilities, top1
from lbyl_onnx.evaluation.class_scores import DEVIATIONS, ClassScores


def compared(reference, found, *cuts, understates=1.0):
    """The record of two arrays, added in slices."""
    scores = ClassScores(understates)
    for old, new in zip(np.split(reference, cuts), np.split(found, cuts), strict=True):
        scores.add(old, new)
    return scores.result()


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def normal(count=50, classes=4, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).standard_normal((count, classes))


PAIRS = st.tuples(st.integers(1, 30), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(
        *[arrays.arrays(np.float32, shape, elements=st.floats(-20, 20, width=32)) for _ in range(2)]
    )
)


# ---- by hand


def test_the_definitions_by_hand():
    """Three samples: one keeps its answer, two change it, at a cost of 0.5 and of 0.1."""
    before = np.array([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.3, 0.4, 0.3]])
    after = np.array([[0.5, 0.4, 0.1], [0.2, 0.5, 0.3], [0.5, 0.25, 0.25]])
    found = compared(before, after)
    assert found.agreement == pytest.approx(1 / 3)
    assert found.confidence == pytest.approx((0.7 + 0.6 + 0.4) / 3)
    assert found.expected_loss == pytest.approx((0 + 0.5 + 0.1) / 3)
    assert found.divergence == pytest.approx((before * np.log(before / after)).sum() / 3)
    losses, confidence = np.array([0, 0.5, 0.1]), 1.7 / 3
    deviation = np.sqrt((((losses - 0.2) ** 2).sum() + losses.max() ** 2) / 3)
    low, high = found.expected_loss_interval
    assert low == max(0.2 - DEVIATIONS * deviation / np.sqrt(3), 0)
    assert high == pytest.approx(min(0.2 + DEVIATIONS * deviation / np.sqrt(3), confidence))


def test_logits_are_what_a_softmax_makes_probabilities_of():
    before, after = normal(), normal(seed=1)
    one, other = compared(before, after), compared(softmax(before), softmax(after))
    for name in ("agreement", "divergence", "confidence", "expected_loss"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
    assert one.expected_loss_interval == pytest.approx(other.expected_loss_interval)


def test_probabilities_are_not_put_through_a_softmax_again():
    sure = np.tile([[0.98, 0.01, 0.01]], (5, 1))
    assert compared(sure, sure).confidence == pytest.approx(0.98)
    np.testing.assert_allclose(probabilities(sure, softmax=False), sure, rtol=1e-6)
    np.testing.assert_allclose(probabilities(np.log(sure), softmax=True), sure, rtol=1e-6)


def test_what_the_original_is_decides_for_both():
    """The result's probabilities may sum to a little less, or its logits happen to look like some."""
    before, after = softmax(normal()), 0.9 * softmax(normal(seed=1))
    assert compared(before, after).divergence == pytest.approx(compared(before, after / 0.9).divergence, rel=1e-6)
    logits = normal(seed=2)
    expected = (softmax(logits) * np.log(softmax(logits) / softmax(before))).sum(axis=1).mean()
    assert compared(logits, before).divergence == pytest.approx(expected, rel=1e-6)


def test_logits_that_look_like_probabilities_in_one_slice():
    """They are read as logits, because those of the other samples cannot be anything else."""
    logits = np.concatenate([[[0.9, 0.1]], normal(9, 2)])
    assert are_probabilities(logits[:1]) and not are_probabilities(logits)
    for cuts in ((), (1,), tuple(range(1, 10))):
        assert compared(logits, logits, *cuts).confidence == pytest.approx(softmax(logits).max(axis=1).mean())
    assert compared(logits[::-1], logits[::-1], 9).confidence == pytest.approx(softmax(logits).max(axis=1).mean())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("tail", [(), (1,), (1, 1)])
def test_types_and_further_axes_of_one_make_no_difference(dtype, tail):
    before, after = (normal(seed=seed).astype(dtype) for seed in (0, 1))
    shape = (*before.shape, *tail)
    found = compared(before.reshape(shape), after.reshape(shape))
    expected = compared(*(scores.astype(np.float64) for scores in (before, after)))
    assert found == expected and is_classes(before.reshape(shape), len(before))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_leave_the_record_finite(special):
    """A class that is masked out, or a sample without any number."""
    before, after = normal(), normal(seed=1)
    for scores in (before, after):
        scores[3, 1], scores[5] = special, special
    found = compared(before, after)
    assert np.isfinite([found.agreement, found.divergence, found.confidence, found.expected_loss]).all()
    assert found.divergence >= 0
    same = compared(before, before)
    assert same.agreement == 1 and same.expected_loss == same.divergence == 0


def test_answers_that_the_original_ruled_out_cost_all_of_its_confidence():
    before, after = np.eye(4)[[0, 1, 2]], np.eye(4)[[3, 3, 3]]
    found = compared(before, after)
    assert found.agreement == 0 and found.expected_loss == pytest.approx(1, abs=1e-6)
    assert found.divergence == pytest.approx(np.log(1 / SMALLEST), rel=1e-3)
    low, high = found.expected_loss_interval
    assert low < high == found.confidence


def test_a_change_between_classes_that_are_alike_costs_nearly_nothing():
    before = np.tile([[0.5001, 0.4999]], (100, 1))
    found = compared(before, before[:, ::-1])
    assert found.agreement == 0 and found.expected_loss == pytest.approx(2e-4, rel=1e-3)


@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_losses_that_samples_understate_are_multiplied_and_nothing_else_is(factor):
    before, after = normal(200), normal(200) + 0.3 * normal(200, seed=1)
    plain, found = compared(before, after), compared(before, after, understates=factor)
    assert 0 < plain.expected_loss < 1 / factor and plain.expected_loss_interval[1] < 1 / factor
    assert found.expected_loss == pytest.approx(factor * plain.expected_loss)
    assert found.expected_loss_interval == pytest.approx([factor * end for end in plain.expected_loss_interval])
    for name in ("agreement", "divergence", "confidence"):
        assert getattr(found, name) == getattr(plain, name)


def test_no_more_than_everything_is_lost_however_much_samples_understate():
    before, after = 0.94 * np.eye(4)[[0, 1, 2]] + 0.015, 0.94 * np.eye(4)[[3, 3, 3]] + 0.015
    found = compared(before, after, understates=1.5)
    low, high = found.expected_loss_interval
    assert 0 < low < found.expected_loss == high == 1


# ---- for any scores


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.booleans(), st.floats(1, 3))
def test_what_holds_for_any_scores(pair, as_probabilities, understates):
    before, after = (scores.astype(np.float64) for scores in pair)
    if as_probabilities:
        before, after = softmax(before), softmax(after)
    found = compared(before, after)
    low, high = found.expected_loss_interval
    assert 0 <= low <= found.expected_loss <= high <= found.confidence * (1 + 1e-12) and low < high
    more = compared(before, after, understates=understates)
    low, high = more.expected_loss_interval
    assert 0 <= low <= more.expected_loss <= high <= min(understates * more.confidence * (1 + 1e-12), 1)
    assert 1 / before.shape[1] - 1e-6 <= found.confidence <= 1 + 1e-9
    assert 0 <= found.agreement <= 1 and found.divergence >= -1e-9
    assert found.expected_loss <= 1 - found.agreement + 1e-9


@given(PAIRS)
def test_the_same_scores_lose_nothing_but_certainty_about_that(pair):
    found = compared(pair[0], pair[0])
    assert found.agreement == 1 and found.expected_loss == 0 and found.divergence == pytest.approx(0, abs=1e-12)
    low, high = found.expected_loss_interval
    assert low == 0 < high


@given(PAIRS, st.data())
def test_slices_make_no_difference(pair, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(pair[0])), max_size=4)))
    cuts = [cut for cut in cuts if cut < len(pair[0])]
    one, other = compared(*pair), compared(*pair, *cuts)
    assert other.agreement == one.agreement
    assert other.divergence == pytest.approx(one.divergence, abs=1e-9)
    assert other.expected_loss_interval == pytest.approx(one.expected_loss_interval, abs=1e-9)


@settings(deadline=None)
@given(PAIRS, st.floats(-50, 50), st.permutations(range(6)))
def test_neither_a_shift_of_logits_nor_the_order_of_classes_matters(pair, shift, order):
    before, after = (scores.astype(np.float64) for scores in pair)
    # ties go to the first class, so they would be broken otherwise in another order
    before, after = (scores + 1e-3 * np.arange(scores.shape[1]) ** 2 for scores in (np.round(before), np.round(after)))
    order = [place for place in order if place < before.shape[1]]
    one, other = compared(before - 100, after - 100), compared(before[:, order] - 100 + shift, after[:, order] - 100)
    assert other.agreement == one.agreement
    assert other.expected_loss == pytest.approx(one.expected_loss, abs=1e-9)
    assert other.divergence == pytest.approx(one.divergence, abs=1e-8)


def test_more_samples_narrow_the_interval():
    widths = []
    for count in (10, 100, 1000):
        before = normal(count)
        low, high = compared(before, before + 0.5 * normal(count, seed=1)).expected_loss_interval
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2] > 0


def test_the_interval_holds_the_loss_of_all_about_as_often_as_it_says():
    """Of many small draws from one large set."""
    before = normal(20_000)
    after = before + normal(20_000, seed=1, scale=1.0)
    whole = compared(before, after).expected_loss
    held = 0
    for start in range(0, 20_000, 100):
        low, high = compared(before[start : start + 100], after[start : start + 100]).expected_loss_interval
        held += low <= whole <= high
    assert held >= 0.9 * 200


def test_the_expected_loss_is_the_loss_where_confidence_is_honest():
    """Labels drawn from the original's own probabilities."""
    rng = np.random.default_rng(3)
    before = normal(20_000)
    after = before + normal(20_000, seed=1)
    labels = (softmax(before).cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    lost = (top1(before) == labels).mean() - (top1(after) == labels).mean()
    found = compared(before, after)
    assert found.expected_loss == pytest.approx(lost, abs=0.015) and found.expected_loss > 0.1
    assert found.confidence == pytest.approx((top1(before) == labels).mean(), abs=0.015)


# ---- which outputs are classes


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 2), True),
        ((5, 1000), True),
        ((5, 10, 1), True),
        ((5, 10, 1, 1), True),
        ((5, 1), False),
        ((5,), False),
        ((), False),
        ((4, 10), False),
        ((5, 10, 2), False),
        ((5, 10, 1, 7), False),
        ((5, 0), False),
    ],
)
def test_outputs_that_look_like_classes(shape, expected):
    assert is_classes(np.zeros(shape, np.float32), 5) == expected
    assert not is_classes(np.zeros(shape, np.int64), 5) and not is_classes(np.zeros(shape, bool), 5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[0.2, 0.8], [1, 0]], True),
        ([[0.201, 0.801]], True),
        ([[0.2, 0.9]], False),
        ([[-0.1, 1.1]], False),
        ([[0.5, 0.5], [3, -2]], False),
        ([[np.nan, 1]], False),
    ],
)
def test_what_looks_like_probabilities(scores, expected):
    assert are_probabilities(np.array(scores, np.float32)) == expected


def test_the_top_class_is_the_first_of_the_highest():
    scores = np.array([[1, 3, 3], [-1, -2, -np.inf]])
    np.testing.assert_array_equal(top1(scores), [1, 0])
    np.testing.assert_array_equal(top1(scores.reshape(2, 3, 1, 1)), [1, 0])


def test_beside_probabilities_only_scores_of_as_many_classes_count():
    """A face detector gives the probability of a face, its logits, and a box of four numbers."""
    logits = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    boxes = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    faces = probabilities(logits, softmax=True)
    assert class_outputs({"box": boxes, "face": faces, "logits": logits}, 5) == ["face", "logits"]
    assert class_outputs({"box": boxes, "logits": logits}, 5) == ["box", "logits"]
    assert class_outputs({"map": boxes.reshape(5, 2, 2), "count": np.arange(5)}, 5) == []
