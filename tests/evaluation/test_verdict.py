"""What a comparison means, and the limits that a user sets. No number of the module is repeated here."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbyl_onnx.calibration.classes import LEAST_CONFIDENCE
from lbyl_onnx.errors import ValidationFailed
from lbyl_onnx.evaluation.records import ClassComparison, OutputComparison, PositionComparison, Validation
from lbyl_onnx.evaluation.verdict import (
    DAMAGED,
    DECIBELS,
    INTACT,
    LOSSES,
    RUINED,
    WORN,
    check_limits,
    verdict,
)
from lbyl_onnx.options import Limits

ORDER = (INTACT, WORN, DAMAGED, RUINED)
"""From good to bad."""
SURE = 0.9


def output(loss=None, sqnr=math.inf, name="y", agreement=1.0, confidence=SURE, classes=10):
    """A comparison of one output; of a classifier where an expected `loss` is given."""
    answers = None if loss is None else ClassComparison(agreement, 0.1, confidence, loss, (loss / 2, 2 * loss))
    return OutputComparison(name, (64, classes), 0.0, 0.0, sqnr, 1.0, 0.0, answers)


def level(*outputs, **accuracies):
    return verdict(outputs, **accuracies).level


def validation(*outputs, before=None, after=None):
    return Validation("cpu", "data", 64, outputs, 1, 1.0, 1.0, before, after)


# ---- levels


def test_thresholds_are_in_order_and_leave_nothing_out():
    assert [limit for limit, _ in LOSSES] == sorted((limit for limit, _ in LOSSES), reverse=True)
    assert [limit for limit, _ in DECIBELS] == sorted(limit for limit, _ in DECIBELS)
    assert [name for _, name in LOSSES] == [name for _, name in DECIBELS] == list(reversed(ORDER))
    assert LOSSES[-1][0] <= -1 and DECIBELS[-1][0] == math.inf and LOSSES[-2][0] > 0


@pytest.mark.parametrize("place", range(len(ORDER) - 1))
def test_a_classifier_is_judged_by_its_expected_loss(place):
    """From each threshold on it is worse, however much signal the output keeps."""
    limit, name = LOSSES[place]
    for sqnr in (-50.0, 0.0, 100.0):
        assert level(output(limit, sqnr)) == name
        assert level(output(limit - 1e-9, sqnr)) == LOSSES[place + 1][1]


@pytest.mark.parametrize("place", range(len(ORDER) - 1))
def test_another_output_is_judged_by_its_signal_to_noise_ratio(place):
    limit, name = DECIBELS[place]
    assert level(output(sqnr=limit - 1e-9)) == name
    assert level(output(sqnr=limit)) == DECIBELS[place + 1][1]


def test_the_ends():
    assert level(output(0.0)) == INTACT and level(output(1.0)) == RUINED
    assert level(output(sqnr=math.inf)) == INTACT and level(output(sqnr=-math.inf)) == RUINED


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_loss_is_never_better(one, other):
    low, high = sorted((one, other))
    assert ORDER.index(level(output(low))) <= ORDER.index(level(output(high)))


@given(st.floats(-100, 200), st.floats(-100, 200))
def test_more_noise_is_never_better(one, other):
    low, high = sorted((one, other))
    assert ORDER.index(level(output(sqnr=low))) >= ORDER.index(level(output(sqnr=high)))


def test_the_worst_output_counts():
    good, bad = output(0.0), output(sqnr=-20.0, name="mask")
    for outputs in ((good, bad), (bad, good), (output(1.0), output(sqnr=99.0)), (output(sqnr=99.0), output(1.0))):
        assert level(*outputs) == RUINED
    assert "'mask'" in verdict((good, bad)).reason


def test_without_outputs_there_is_no_verdict():
    assert verdict(()) is None


# ---- accuracies in place of the expected loss


@pytest.mark.parametrize(("limit", "name"), LOSSES[:-1])
def test_accuracies_that_were_measured_count_in_place_of_the_expected_loss(limit, name):
    for expected in (0.0, 1.0):
        assert level(output(expected), accuracies=(1.0, 1.0 - limit - 1e-9)) == name
        assert level(output(expected), accuracies=(0.8, 0.8)) == INTACT


def test_a_gain_of_accuracy_is_intact():
    assert level(output(1.0), accuracies=(0.0, 1.0)) == level(output(1.0), accuracies=(0.5, 0.6)) == INTACT


@pytest.mark.parametrize("accuracies", [(None, None), (0.9, None), (None, 0.9)])
def test_half_a_measurement_is_none(accuracies):
    assert level(output(0.0), accuracies=accuracies) == INTACT
    assert level(output(1.0), accuracies=accuracies) == RUINED


def test_accuracies_do_not_speak_for_outputs_that_are_no_classes():
    assert level(output(0.0), output(sqnr=-20.0), accuracies=(0.9, 0.9)) == RUINED


# ---- which outputs answer


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_scores_that_say_no_more_than_chance_are_judged_by_their_signal(classes):
    """Embeddings look like scores of classes, but none of them stands out."""
    chance = 1 / classes
    sure = chance + LEAST_CONFIDENCE * (1 - chance)
    for loss, sqnr, expected in ((1.0, math.inf, INTACT), (0.0, -50.0, RUINED)):
        unsure = output(loss, sqnr, confidence=sure - 1e-6, classes=classes)
        assert level(unsure) == expected and "dB" in verdict((unsure,)).reason
        assert level(unsure, accuracies=(0.9, 0.9)) == expected
    assert level(output(1.0, math.inf, confidence=sure + 1e-6, classes=classes)) == RUINED


# ---- reasons


def test_reasons_tell_the_numbers():
    found = verdict((output(0.123, agreement=0.77),)).reason
    assert "12.3 points of accuracy (6.2 to 24.6)" in found and "77 %" in found
    assert "lose 1.2 points of accuracy" in verdict((output(0.012),)).reason
    assert "12.5 points" in verdict((output(0.0),), (0.9, 0.775)).reason
    found = verdict((output(sqnr=7.26, name="mask"),)).reason
    assert "'mask'" in found and "7.3 dB" in found


# ---- limits


def test_no_limit_is_always_kept():
    check_limits(validation(output(1.0, -math.inf, agreement=0.0), before=1.0, after=0.0), Limits())
    check_limits(validation(), Limits())
    assert not Limits().any and Limits(min_sqnr=0.0).any and Limits(max_drop=0.0).any


@pytest.mark.parametrize(
    ("limits", "kept", "broken", "message"),
    [
        (
            {"min_agreement": 95},
            {"loss": 0.0, "agreement": 0.951},
            {"loss": 0.0, "agreement": 0.949},
            "94.9 % of top-1",
        ),
        ({"min_sqnr": 12}, {"sqnr": 12.01}, {"sqnr": 11.94}, "output 'y' keeps 11.9 dB, --min-sqnr is 12"),
        ({"min_sqnr": -3}, {"sqnr": -2.9}, {"sqnr": -math.inf}, "keeps -inf dB, --min-sqnr is -3"),
    ],
)
def test_limits_of_outputs(limits, kept, broken, message):
    check_limits(validation(output(**kept)), Limits(**limits))
    for outputs in ((output(**broken),), (output(**kept), output(**broken))):
        with pytest.raises(ValidationFailed, match=message) as caught:
            check_limits(validation(*outputs), Limits(**limits))
        assert caught.value.exit_code == 5 and "\n" not in str(caught.value) and "ask for less" in str(caught.value)


def test_a_limit_on_accuracy():
    check_limits(validation(before=0.9, after=0.881), Limits(max_drop=2))
    check_limits(validation(before=0.9, after=0.95), Limits(max_drop=0))
    with pytest.raises(ValidationFailed, match=r"falls from 90\.0 to 87\.9 %, --max-drop is 2;"):
        check_limits(validation(before=0.9, after=0.879), Limits(max_drop=2))
    with pytest.raises(ValidationFailed, match="--max-drop is 0;"):
        check_limits(validation(before=0.9, after=0.899), Limits(max_drop=0))


@given(st.integers(1, 500), st.data())
def test_a_limit_that_is_just_kept_is_kept(samples, data):
    """Per cent of whole numbers of samples, whatever rounding makes of them."""
    agreeing = data.draw(st.integers(-(-samples // 100), samples))
    share = 100 * agreeing / samples
    check_limits(validation(output(0.0, agreement=agreeing / samples)), Limits(min_agreement=share))
    first, second = data.draw(st.integers(0, samples)), data.draw(st.integers(0, samples))
    drop = max(100 * first / samples - 100 * second / samples, 0.0)
    check_limits(validation(before=first / samples, after=second / samples), Limits(max_drop=drop))


@pytest.mark.parametrize(("points", "before", "after"), [(2, 0.9, 0.88), (29, 0.29, 0.0), (10, 1.0, 0.9)])
def test_a_drop_of_exactly_the_limit_is_allowed(points, before, after):
    check_limits(validation(before=before, after=after), Limits(max_drop=points))


def test_several_limits_are_all_checked():
    limits = Limits(min_agreement=90, min_sqnr=10, max_drop=1)
    good = output(0.0, 20.0, agreement=0.95)
    check_limits(validation(good, before=0.9, after=0.9), limits)
    for broken, message in [
        (validation(output(0.0, 20.0, agreement=0.5), before=0.9, after=0.9), "min-agreement"),
        (validation(output(0.0, 5.0, agreement=0.95), before=0.9, after=0.9), "min-sqnr"),
        (validation(good, before=0.9, after=0.5), "max-drop"),
    ]:
        with pytest.raises(ValidationFailed, match=message):
            check_limits(broken, limits)


@pytest.mark.parametrize(
    ("limits", "outputs", "message"),
    [
        (Limits(min_agreement=1), (), "no output looks like classes, so --min-agreement cannot be checked"),
        (Limits(min_agreement=1), (output(sqnr=99.0),), "no output looks like classes"),
        (Limits(max_drop=100), (output(sqnr=99.0),), "no output looks like classes, so --max-drop cannot be checked"),
        (Limits(min_sqnr=-200), (), "no output can be compared, so --min-sqnr cannot be checked"),
    ],
)
def test_limits_that_cannot_be_checked_are_broken(limits, outputs, message):
    with pytest.raises(ValidationFailed, match=message):
        check_limits(validation(*outputs), limits)


def test_the_least_agreement_counts():
    outputs = [output(0.0, agreement=share) for share in (1.0, 0.6, 0.8)]
    check_limits(validation(*outputs), Limits(min_agreement=60))
    with pytest.raises(ValidationFailed, match=r"only 60\.0 %"):
        check_limits(validation(*outputs), Limits(min_agreement=61))
    assert np.isclose(min(each.top1_agreement for each in outputs), 0.6)


def test_answers_at_positions_agree_too():
    read = replace(output(sqnr=15.0), positions=PositionComparison(0.9, 0.2))
    check_limits(validation(read), Limits(min_agreement=90))
    with pytest.raises(ValidationFailed, match=r"only 90\.0 %"):
        check_limits(validation(output(0.0), read), Limits(min_agreement=91))
    assert verdict([read]).level == WORN and verdict([read]).reason.endswith(
        "and 90.0 % of its answers are the original's"
    )


# ---- how far outputs moved


def test_an_output_moved_by_what_its_kind_tells():
    classes, values = output(0.1, sqnr=20.0), output(sqnr=20.0)
    assert classes.divergence == classes.classes.divergence != values.divergence == pytest.approx(0.01)
    assert output(0.1, sqnr=20.0, confidence=0.1).divergence == values.divergence
    assert replace(values, variation_db=3.0).divergence == pytest.approx(10**-0.3)
    assert replace(values, positions=PositionComparison(0.9, 0.2)).divergence == 0.2
    assert replace(values, positions=PositionComparison(0.9, None)).divergence == values.divergence
    assert validation(classes, values).divergence == pytest.approx((0.1 + values.divergence) / 2)
    assert validation().divergence == 0
