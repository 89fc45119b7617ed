"""How many units stay, which ones, and which groups are left alone."""

import math

import numpy as np
import pytest
from graphs import Builder, plan_for
from hypothesis import given
from hypothesis import strategies as st

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.selection.plan import units_kept

UNITS = st.integers(1, 4096)
RATIOS = st.floats(0, 1, exclude_max=True)
MULTIPLES = st.integers(1, 64)


@given(UNITS, RATIOS, MULTIPLES)
def test_a_multiple_between_one_and_all_stays(units, ratio, round_to):
    kept = units_kept(units, ratio, round_to)
    assert 1 <= kept <= units
    assert kept % round_to == 0 or kept == units
    assert 0 <= kept - units_kept(units, ratio) < round_to


@given(UNITS, RATIOS)
def test_no_more_than_the_share_is_removed(units, ratio):
    assert abs(units_kept(units, ratio) - units * (1 - ratio)) < 1 or units_kept(units, ratio) == 1
    assert units_kept(units, ratio) == max(1, math.floor(units * (1 - ratio) + 1e-6))


@given(UNITS, RATIOS, RATIOS, MULTIPLES)
def test_more_goes_at_a_larger_ratio(units, one, other, round_to):
    low, high = sorted([one, other])
    assert units_kept(units, low, round_to) >= units_kept(units, high, round_to)


@given(UNITS, MULTIPLES)
def test_nothing_goes_at_ratio_zero(units, round_to):
    assert units_kept(units, 0, round_to) == units


@pytest.mark.parametrize(
    ("units", "ratio", "expected"), [(10, 0.9, 1), (10, 0.7, 3), (300, 0.8, 60), (100, 0.8, 20), (64, 0.3, 44)]
)
def test_rounding_errors_cost_no_unit(units, ratio, expected):
    assert units_kept(units, ratio) == expected


def analysed(proto):
    model = load(proto)
    return analyse(model, probe(model))


def planned(analysis, ratio, criterion="l2", **options):
    return plan_for(analysis, ratio=ratio, criterion=criterion, **options)


def chain():
    """Conv "stage1.a" (8) → Conv "stage1.b" (6) → Conv "stage2" (4) → Conv "last" (3)."""
    graph = Builder()
    x, width = graph.input(), 3
    for name, filters in [("stage1.a", 8), ("stage1.b", 6), ("stage2", 4), ("last", 3)]:
        x, width = graph.conv(x, width, filters, (1, 1), name=name), filters
    return analysed(graph.model(x))


def fates(plan):
    return {choice.group.name: (int(choice.removed.sum()), choice.reason) for choice in plan.choices}


FROZEN = (0, "output 'last' of the model")


def test_every_free_group_loses_its_share():
    plan = planned(chain(), 0.5)
    assert fates(plan) == {"stage1.a": (4, None), "stage1.b": (3, None), "stage2": (2, None), "last": FROZEN}
    assert not plan.removes_nothing


def test_the_least_important_units_go():
    analysis = chain()
    plan = planned(analysis, 0.5)
    for choice in plan.choices[:3]:
        weight = choice.group.producers[0].weight.read(analysis.model).reshape(choice.group.units, -1)
        norms = np.linalg.norm(weight, axis=1)
        assert norms[choice.removed].max() < norms[~choice.removed].min()
        np.testing.assert_array_equal(plan.kept[choice.group.classes], ~choice.removed)
    gone = sum(choice.removed.sum() for choice in plan.choices)
    assert plan.kept.dtype == bool and plan.kept.sum() == analysis.classes.count - gone


def test_nothing_to_remove():
    assert planned(chain(), 0).removes_nothing
    assert planned(chain(), 0.5, round_to=8).removes_nothing
    assert planned(chain(), 0.5, exclude="stage").removes_nothing


def test_round_to():
    assert fates(planned(chain(), 0.5, round_to=4)) == {
        "stage1.a": (4, None),
        "stage1.b": (2, None),
        "stage2": (0, None),
        "last": FROZEN,
    }


NOT_INCLUDED, EXCLUDED = "not matched by --include", "matched by --exclude"


@pytest.mark.parametrize(
    ("include", "exclude", "reasons"),
    [
        ("stage1", None, [None, None, NOT_INCLUDED]),
        (None, "stage1", [EXCLUDED, EXCLUDED, None]),
        ("stage1", r"\.a$", [EXCLUDED, None, NOT_INCLUDED]),
        ("age2|b", None, [NOT_INCLUDED, None, None]),
        ("^age2", None, [NOT_INCLUDED] * 3),
    ],
)
def test_regular_expressions_are_searched_in_node_names(include, exclude, reasons):
    plan = planned(chain(), 0.5, include=include, exclude=exclude)
    assert [choice.reason for choice in plan.choices] == [*reasons, FROZEN[1]]
    for choice in plan.choices:
        assert choice.removed.any() == (choice.reason is None)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_bad_regular_expression(option):
    with pytest.raises(UsageError, match=rf"^{option} 'stage\(' is not a regular expression: "):
        planned(chain(), 0.5, **{option: "stage("})


def residual():
    """A residual stream of 8 channels (made by "stem" and "outer") around a Conv "inner" of 6."""
    graph = Builder()
    stem = graph.conv(graph.input(), 3, 8, name="stem")
    inner = graph.node("Relu", graph.conv(stem, 8, 6, name="inner"))
    joined = graph.node("Add", stem, graph.conv(inner, 6, 8, name="outer"))
    return analysed(graph.model(graph.conv(joined, 8, 4, name="last")))


def test_scopes():
    chains, everything = (fates(planned(residual(), 0.5, scope=scope)) for scope in ("chains", "all"))
    assert chains["inner"] == everything["inner"] == (3, None)
    assert everything["stem"] == (4, None)
    removed, reason = chains["stem"]
    assert removed == 0 and "--scope all" in reason


def test_one_excluded_producer_keeps_its_whole_group():
    plan = planned(residual(), 0.5, scope="all", exclude="outer")
    assert fates(plan)["stem"] == (0, EXCLUDED)
    assert fates(planned(residual(), 0.5, scope="all", include="outer"))["stem"] == (4, None)


def test_units_that_are_not_free_stay():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    shown, used = graph.nodes("Split", [hidden, graph.constant([5, 3])], 2, axis=1)
    analysis = analysed(graph.model(shown, graph.conv(used, 3, 4)))
    group = analysis.groups[0]
    assert group.free.tolist() == [False] * 5 + [True] * 3
    for ratio, gone in [(0.25, 2), (0.9, 2)]:
        removed = planned(analysis, ratio).choices[0].removed
        assert removed.sum() == gone and not removed[:5].any()


def test_the_seed_decides_at_random():
    plans = [planned(chain(), 0.5, "random", seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(plans[0].kept, plans[1].kept)
    assert (plans[0].kept != plans[2].kept).any()


def test_a_criterion_that_does_not_apply_only_matters_where_units_may_go():
    with pytest.raises(UsageError, match="bn-scale"):
        planned(chain(), 0.5, "bn-scale")
    assert planned(chain(), 0.5, "bn-scale", exclude="stage").removes_nothing
