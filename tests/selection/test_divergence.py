"""How far outputs are from the original's. Curves of whole networks are in test_sensitivity."""

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from lbyl_onnx.errors import MeasurementFailed
from lbyl_onnx.selection.divergence import Original

GENERATOR = np.random.default_rng(0)
INPUTS = [{"x": np.zeros((count, 3, 6, 4), np.float32)} for count in (4, 2)]


def values(*shape, scale=1.0):
    return (scale * GENERATOR.standard_normal((6, *shape))).astype(np.float32)


def batches(**arrays):
    """In two batches, as many samples as INPUTS have."""
    return [{name: array[part] for name, array in arrays.items()} for part in (slice(0, 4), slice(4, 6))]


def moved(before, after, name="y"):
    return Original(INPUTS, batches(**before)).divergence(batches(**after), [name])


def spread(value):
    """What differs between samples."""
    return value.var(axis=0, ddof=1, dtype=np.float64).sum() * len(value)


@pytest.mark.parametrize("offset", [0.0, 5.0, 100.0])
def test_what_all_samples_have_in_common_does_not_count(offset):
    before = values(7, 3) + np.float32(offset)
    after = before + values(7, 3, scale=0.1)
    expected = np.square(after - before).sum() / spread(before)
    assert moved({"y": before}, {"y": after}) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("shape", "axis"), [((5, 4), 1), ((5, 4), 2), ((3, 4, 5), 1)])
def test_of_classes_at_positions_it_is_the_share_of_what_answers_tell(shape, axis):
    before, after = (softmax(values(*shape, scale=3.0).astype(np.float64), axis=axis) for _ in range(2))
    expected = rel_entr(before, after).sum() / (rel_entr(before, before.mean(axis=0)).sum() * 6 / 5)
    single = [{"y": each.astype(np.float32)} for each in (before, after)]
    assert moved(*single) == pytest.approx(expected, rel=1e-4)


def test_a_segmented_image_as_large_as_the_input():
    before, after = values(8, 6, 4, scale=4.0), values(8, 6, 4, scale=4.0)
    answers = [softmax(each.astype(np.float64), axis=1) for each in (before, after)]
    expected = rel_entr(*answers).sum() / (rel_entr(answers[0], answers[0].mean(axis=0)).sum() * 6 / 5)
    assert moved({"y": before}, {"y": after}) == pytest.approx(expected, rel=1e-4)


def test_of_classes_it_is_in_nats_where_the_original_is_sure():
    for scale, in_nats in ((4.0, True), (0.01, False)):
        before, after = values(9, scale=scale), values(9, scale=scale)
        answers = [softmax(each.astype(np.float64), axis=1) for each in (before, after)]
        expected = rel_entr(*answers).sum() / 6 if in_nats else np.square(after - before).sum() / spread(before)
        assert moved({"y": before}, {"y": after}) == pytest.approx(expected, rel=1e-4)


def test_answers_that_are_the_same_for_all_samples_are_compared_as_numbers():
    """A softmax of great numbers: the classes hold, only the scores move."""
    common = np.zeros((1, 5, 6, 4), np.float32)
    common[:, 0] = 1000
    before = common + np.abs(values(5, 6, 4))
    after = before + values(5, 6, 4, scale=0.1)
    expected = np.square(after - before).sum() / spread(before)
    assert moved({"y": before}, {"y": after}) == pytest.approx(expected, rel=1e-3)


def test_the_mean_over_the_outputs_asked_for():
    before = {"a": values(7, 3), "b": values(4, 2), "c": values(6, 2)}
    after = {name: value + values(*value.shape[1:], scale=0.1) for name, value in before.items()}
    single = [moved(before, after, name) for name in "ab"]
    both = Original(INPUTS, batches(**before)).divergence(batches(**after), ["a", "b"])
    assert both == pytest.approx(np.mean(single)) and single[0] != single[1]


def test_outputs_that_tell_nothing():
    same = np.repeat(values(5, 2)[:1], 6, axis=0)
    before = {"same": same, "whole": np.arange(6), "told": values(5, 2)}
    assert Original(INPUTS, batches(**before)).names == ["told"]
    with pytest.raises(MeasurementFailed, match="differs between samples"):
        Original(INPUTS, batches(same=same))


def test_sizes_that_follow_values_are_left_out():
    """Of one batch; of all of them nothing is known."""
    before = batches(y=values(5, 2))
    half = [before[0], {"y": before[1]["y"][:, :3]}]
    assert Original(INPUTS, before).divergence([{"y": before[0]["y"] + 1}, half[1]], ["y"]) == pytest.approx(
        40 / (spread(np.concatenate([each["y"] for each in before])) * 4 / 6)
    )
    assert Original(INPUTS, before).divergence([{"y": each["y"][:, :3]} for each in before], ["y"]) == 0


def test_what_is_no_number_is_infinitely_far():
    before = values(5, 2)
    assert moved({"y": before}, {"y": before * np.float32(np.nan)}) == np.inf
