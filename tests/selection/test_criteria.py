"""Criteria by name: registered once, used by name, removed again."""

from unittest.mock import patch

import numpy as np
import pytest
from graphs import Builder, plan_for
from uniform import compress

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.selection.criteria import CRITERIA, Ranking, criterion, criterion_named, layer_criterion


@pytest.fixture(autouse=True)
def as_before():
    """What a test registers is forgotten when it ends."""
    with patch.dict(CRITERIA):
        yield


def chain():
    """Conv "first" (6) → Conv "second" (4) → Conv "last" (3)."""
    graph = Builder()
    x, width = graph.input(), 3
    for name, filters in [("first", 6), ("second", 4), ("last", 3)]:
        x, width = graph.conv(x, width, filters, (1, 1), name=name), filters
    model = load(graph.model(x))
    return analyse(model, probe(model))


def removed(plan):
    return {choice.group.name: np.flatnonzero(choice.removed).tolist() for choice in plan.choices}


def used(plan):
    return {choice.group.name: choice.criterion for choice in plan.choices}


def test_the_names_that_there_are():
    assert {*CRITERIA} == {"obs", "l1", "l2", "l2-gm", "bn-scale", "random"}
    assert [name for name, each in CRITERIA.items() if each.needs_samples] == ["obs"]
    assert all(name == each.name for name, each in CRITERIA.items())


def test_a_name_registered_twice_is_refused():
    before = CRITERIA["l2"]
    with pytest.raises(ValueError, match="criterion 'l2' is registered twice"):
        criterion("l2")(lambda task: {})
    with pytest.raises(ValueError, match="criterion 'l2' is registered twice"):
        layer_criterion("l2")(lambda layer: layer.bias)
    assert CRITERIA["l2"] is before


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match=r"^criterion 'l3' is unknown; expected one of .*l2"):
        criterion_named("l3")
    with pytest.raises(UsageError, match=r"^criterion 'l3' is unknown"):
        plan_for(chain(), criterion="l3")


def test_a_registered_score_of_layers_is_used_by_name():
    """The channels with the largest numbers go, whatever their weights."""

    @layer_criterion("first-ones")
    def first_ones(layer):
        return 100.0 - np.arange(len(layer.filters))

    plan = plan_for(chain(), ratio=0.5, criterion="first-ones")
    assert removed(plan) == {"first": [3, 4, 5], "second": [2, 3], "last": []}
    assert used(plan) == {"first": "first-ones", "second": "first-ones", "last": None}


def test_a_registered_ranking_of_groups_is_used_by_name():
    """Its errors are told; groups that it leaves out are ranked by the criterion that it falls back to."""
    asked = {}

    @criterion("second-only", fallback="random")
    def second_only(task):
        asked.update(groups=list(task.groups), counts=dict(task.counts), seed=task.options.seed)
        return {1: Ranking(np.array([3.0, 0, 1, 2]), np.array([0.25, 0.5]))}

    analysis = chain()
    plan = plan_for(analysis, ratio=0.5, criterion="second-only", seed=7)
    assert asked == {"groups": [0, 1], "counts": {0: 3, 1: 2}, "seed": 7}
    assert used(plan) == {"first": "random", "second": "second-only", "last": None}
    assert removed(plan)["second"] == [1, 2]
    assert removed(plan)["first"] == removed(plan_for(analysis, ratio=0.5, criterion="random", seed=7))["first"]
    assert [choice.predicted_error for choice in plan.choices] == [None, 0.5, None]


@pytest.mark.parametrize(
    ("ranked", "told"),
    [
        ([0], "1 group has no consumer whose input some-of-them can measure; it was ranked by l1"),
        ([], "2 groups have no consumer whose input some-of-them can measure; they were ranked by l1"),
    ],
)
def test_how_many_groups_another_criterion_ranked_is_told(ranked, told):
    @criterion("some-of-them", fallback="l1")
    def some_of_them(task):
        return {number: Ranking(np.arange(6.0)) for number in ranked}

    report = compress(chain().model, 0.5, criterion="some-of-them", restore="none", validation=False).report
    assert told in report.warnings


def test_groups_that_nothing_ranks_stay_whole():
    @criterion("none-of-them")
    def none_of_them(task):
        return {}

    plan = plan_for(chain(), ratio=0.5, criterion="none-of-them")
    assert plan.removes_nothing and set(used(plan).values()) == {None}


def test_errors_are_told_as_far_as_they_are_predicted():
    ranking = Ranking(np.arange(3.0), np.array([0.1, 0.4]))
    assert [ranking.predicted_error(count) for count in range(4)] == [0, 0.1, 0.4, None]
    assert Ranking(np.arange(3.0)).predicted_error(1) is None
