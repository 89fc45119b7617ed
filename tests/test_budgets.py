"""Budgets: what texts and numbers stand for, what limit they make, and what is refused in which words."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbyl_onnx.budgets import BUDGETS, DEFAULT, EXPECTED, UNITS, Budget, budget, budgets
from lbyl_onnx.errors import UsageError

COSTS = ("macs", "params", "bytes", "latency")
shares = st.floats(1e-6, 1.0)
plain = st.decimals(min_value=2, max_value=10**6, places=3)


def refused(name, value):
    with pytest.raises(UsageError) as error:
        budget(name, value)
    assert error.value.parameter == "target"
    return error.value.message


# ---- shares


@given(name=st.sampled_from(COSTS), share=shares, written=st.booleans())
def test_up_to_one_without_a_unit_is_a_share(name, share, written):
    found = budget(name, repr(share) if written else share)
    assert found == Budget(name, share, share=True)


@given(name=st.sampled_from(COSTS), share=shares, whole=st.floats(1, 1e12))
def test_a_share_allows_that_much_of_the_original(name, share, whole):
    assert budget(name, share).most(whole) == share * whole


def test_the_whole_is_a_share():
    assert budget("macs", 1) == budget("macs", "1") == Budget("macs", 1.0, share=True)


@pytest.mark.parametrize("name", COSTS)
def test_up_to_one_with_a_unit_is_no_share(name):
    unit = next(unit for unit in UNITS[name] if unit)
    assert not budget(name, f"0.5{unit}").share


@given(points=st.floats(0, 100))
def test_points_of_accuracy_are_never_a_share(points):
    assert budget("drop", points) == Budget("drop", points, share=False)
    assert budget("drop", points).most(50) == points


# ---- absolute values


@given(name=st.sampled_from(COSTS), value=plain, data=st.data())
def test_values_are_multiplied_by_their_units(name, value, data):
    unit = data.draw(st.sampled_from([unit for unit in UNITS[name] if unit]))
    spelled = data.draw(st.sampled_from([unit, unit.upper(), f" {unit}", f"  {unit.title()} "]))
    found = budget(name, f"{value}{spelled}")
    assert not found.share and found.value == float(value) * UNITS[name][unit]
    assert found.most(1e9) == found.value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("macs", "300M", 300e6),
        ("macs", "1.5g", 1.5e9),
        ("macs", "1,000,000", 1e6),
        ("params", "2M", 2e6),
        ("params", "20k", 20e3),
        ("bytes", "4MB", 4e6),
        ("bytes", "4MiB", 4 * 2**20),
        ("bytes", "512 B", 512),
        ("bytes", "1e6b", 1e6),
        ("latency", "5ms", 5),
        ("latency", "250us", 0.25),
        ("latency", "0.5 s", 500),
        ("drop", "1%", 1),
        ("drop", "0", 0),
        ("drop", "0.5 %", 0.5),
    ],
)
def test_texts_as_people_write_them(name, text, value):
    assert budget(name, text) == Budget(name, value, share=False)


@pytest.mark.parametrize("name", COSTS)
def test_numbers_above_one_are_taken_as_they_are(name):
    assert budget(name, 5000) == budget(name, 5000.0) == Budget(name, 5000.0, share=False)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int32])
def test_numbers_of_numpy_are_numbers(kind):
    assert budget("macs", kind(5000)) == Budget("macs", 5000.0, share=False)
    assert budget("bytes", kind(1)) == Budget("bytes", 1.0, share=True)
    if issubclass(kind, np.floating):
        assert budget("params", kind(0.8)) == Budget("params", 0.8, share=True)


# ---- refusals


@pytest.mark.parametrize("name", ["mac", "MACs", "", "size", 3, None])
def test_unknown_names_are_refused_with_those_that_are_known(name):
    assert refused(name, 0.5) == f"{name!r} is unknown; expected one of {', '.join(BUDGETS)}"


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize(
    "value", ["", "some", "-1", -1, -0.5, "0.5 parsecs", "nan", float("nan"), float("inf"), True, None, [0.5], "1.2.3"]
)
def test_what_is_no_budget_is_refused_with_what_is_expected(name, value):
    assert refused(name, value) == f"{name}={value} is no budget; expected {EXPECTED[name]}"


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("value", [0, "0", 0.0])
def test_only_a_loss_may_be_nothing(name, value):
    assert "is no budget" in refused(name, value)
    assert budget("drop", value).value == 0


@pytest.mark.parametrize(("name", "text"), [("macs", "80%"), ("params", "4MB"), ("bytes", "5ms"), ("latency", "4MB")])
def test_the_units_of_other_budgets_are_refused(name, text):
    assert refused(name, text) == f"{name}={text} is no budget; expected {EXPECTED[name]}"


@pytest.mark.parametrize("text", ["0,8", "0,80", "1,5M", "1,0000", "12,34,567", ",5", "1,000.5"])
@pytest.mark.parametrize("name", ["macs", "params"])
def test_commas_stand_between_thousands_only(name, text):
    assert refused(name, text) == f"{name}={text} is no budget; expected {EXPECTED[name]}"


@pytest.mark.parametrize(
    ("name", "text"), [("macs", "1e308G"), ("macs", "1e309"), ("bytes", "1e303GB"), ("latency", "1e306s")]
)
def test_what_is_too_much_for_a_number_is_refused(name, text):
    assert refused(name, text) == f"{name}={text} is no budget; expected {EXPECTED[name]}"


@pytest.mark.parametrize("value", [np.bool_(True), np.float64("nan"), np.float32("inf"), np.array([0.5]), 1 + 0j])
def test_what_is_no_number_of_numpy_is_refused(value):
    assert refused("macs", value) == f"macs={value} is no budget; expected {EXPECTED['macs']}"


@pytest.mark.parametrize("name", ["bytes", "latency"])
def test_sizes_and_times_are_written_with_their_units(name):
    assert refused(name, "5") == f"{name}=5 has no unit; expected {EXPECTED[name]}"


@given(name=st.sampled_from(BUDGETS), text=st.text(max_size=8))
def test_any_text_is_a_budget_or_refused(name, text):
    try:
        found = budget(name, text)
    except UsageError as error:
        assert EXPECTED[name] in error.message
    else:
        assert found.value >= 0 and (not found.share or 0 < found.value <= 1)


# ---- several


def test_budgets_keep_their_order():
    found = budgets({"bytes": "4MB", "macs": 0.8, "drop": "1%"})
    assert found == (budget("bytes", "4MB"), budget("macs", 0.8), budget("drop", 1))


@pytest.mark.parametrize("given_", [None, {}])
def test_no_budgets(given_):
    assert budgets(given_) == ()


@pytest.mark.parametrize(("given_", "kind"), [(0.8, "a float"), ("macs=0.8", "a str"), ([("macs", 0.8)], "a list")])
def test_what_holds_no_values_by_name_is_refused(given_, kind):
    with pytest.raises(UsageError, match=re.escape(f"is {kind}; expected values by name")):
        budgets(given_)


def test_one_point_is_lost_where_nothing_is_asked_for():
    assert budgets({"drop": "1%"}) == DEFAULT


# ---- words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("macs", 0.8, "macs=0.8"),
        ("macs", "300M", "macs=300,000,000"),
        ("params", "1.5k", "params=1,500"),
        ("bytes", 0.5, "bytes=0.5"),
        ("bytes", "4MB", "bytes=4,000,000 bytes"),
        ("latency", "5ms", "latency=5 ms"),
        ("latency", "250us", "latency=0.25 ms"),
        ("drop", 1, "drop=1%"),
        ("drop", "0.5%", "drop=0.5%"),
    ],
)
def test_budgets_in_words(name, value, words):
    assert str(budget(name, value)) == words


@given(name=st.sampled_from(["macs", "params", "latency"]), value=st.integers(2, 10**9))
def test_words_stand_for_the_same_budget(name, value):
    found = budget(name, value)
    assert budget(*str(found).split("=")) == found
