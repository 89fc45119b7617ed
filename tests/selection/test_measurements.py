"""What is known of a model once a result that has lost part of its units was measured too."""

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import PruneOptions, RunOptions
from lbyl_onnx.selection.measurements import Measurements, continued, same_groups
from lbyl_onnx.selection.plan import reasons_to_leave
from lbyl_onnx.selection.planner import Planner

CPU = RunOptions("cpu")


def two_layers(units=16):
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, units, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, units, 8, name="second"))
    model = load(graph.model(graph.conv(hidden, 8, 4, (1, 1))))
    return analyse(model, probe(model))


def samples():
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((8, 3, 6, 3)).astype(np.float32)} for _ in range(4)]
    return Calibration(batches, (0, 1, 0, 1), False, "drawn")


def planner_of(analysis, **options):
    prune = PruneOptions(**options)
    return Planner(analysis, reasons_to_leave(analysis, prune), prune, CPU, samples())


def measured(analysis, most):
    prune = PruneOptions()
    return Measurements(analysis, reasons_to_leave(analysis, prune), most, prune, CPU, samples())


@pytest.fixture(scope="module")
def looked():
    """A planner that has looked again at a result without 5 and 2 units, what it knew before, and that result."""
    ours = planner_of(two_layers())
    gone = np.array([5, 2, 0])
    before = ours.known
    result = cut(ours.analysis, ours.plan_of(gone).kept)
    later = analyse(result, probe(result))
    ours.look_again(later, gone)
    return ours, before, later, gone


def first_to_go(known, number, count):
    return np.argsort(known.ranked[number].ranking.importance, kind="stable")[:count].tolist()


def test_units_that_are_gone_stay_the_first_to_go(looked):
    ours, before, _, gone = looked
    for number in (0, 1):
        assert first_to_go(ours.known, number, gone[number]) == first_to_go(before, number, gone[number])


def test_the_others_go_as_the_result_says(looked):
    """Its units are those that are left, in the same order; found by measuring it on its own."""
    ours, before, later, gone = looked
    alone = measured(later, {0: 9, 1: 5}).known
    for number, units in ((0, 16), (1, 8)):
        left = np.setdiff1d(np.arange(units), first_to_go(before, number, gone[number]))
        count = int(np.isfinite(alone.ranked[number].ranking.importance).sum())
        expected = left[first_to_go(alone, number, count)].tolist()
        assert first_to_go(ours.known, number, gone[number] + count)[gone[number] :] == expected


def test_a_curve_goes_on_from_where_the_first_round_ended(looked):
    ours, before, later, gone = looked
    alone = measured(later, {0: 9, 1: 5}).known
    for number in (0, 1):
        curve, first, then = (known.curves[number] for known in (ours.known, before, alone))
        spent = first.at(gone[number])
        assert curve.at(gone[number]) == pytest.approx(spent)
        np.testing.assert_allclose(curve.at(gone[number] + then.removed), spent + then.divergence)
        fewer = first.removed[first.removed < gone[number]]
        np.testing.assert_allclose(curve.at(fewer), first.at(fewer))
        assert (np.diff(curve.removed) > 0).all() and (np.diff(curve.divergence) >= 0).all()


def test_expected_errors_add_up(looked):
    ours, before, later, _ = looked
    alone = measured(later, {0: 9, 1: 5}).known
    ranking = ours.known.ranked[0].ranking
    spent = before.ranked[0].ranking.predicted_error(5)
    assert ranking.predicted_error(5) == pytest.approx(spent)
    assert ranking.predicted_error(8) == pytest.approx(spent + alone.ranked[0].ranking.predicted_error(3))


def test_one_looks_again_once(looked):
    ours, _, later, gone = looked
    known = ours.known
    ours.look_again(later, gone)
    assert ours.looked_again and ours.known.curves[0].removed.tolist() == known.curves[0].removed.tolist()


def test_another_model_tells_nothing():
    ours = planner_of(two_layers())
    graph = Builder()
    model = load(graph.model(graph.conv(graph.node("Relu", graph.conv(graph.input(), 3, 11, name="other")), 11, 4)))
    other = analyse(model, probe(model))
    assert not same_groups(ours.analysis, other)
    ours.look_again(other, np.array([5, 2, 0]))
    assert not ours.looked_again


def test_groups_that_lost_others_than_they_should_keep_what_was_known(looked):
    ours, before, later, gone = looked
    alone = measured(later, {0: 9, 1: 5}).known
    found = continued(ours.analysis, gone, before, alone, [12, 6, 4])
    assert found.curves[0] is before.curves[0] and found.ranked[0] is before.ranked[0]
    assert found.curves[1] is not before.curves[1]


def test_groups_that_have_lost_nothing_are_known_from_the_result_alone(looked):
    ours, before, _, _ = looked
    alone = measured(two_layers(), {0: 9, 1: 5}).known
    found = continued(ours.analysis, np.zeros(3, np.int64), before, alone, [16, 8, 4])
    assert found.curves[0] is alone.curves[0]


def test_groups_that_may_lose_nothing_more_are_not_tried():
    found = measured(two_layers(), {0: 0, 1: 5})
    assert set(found.known.curves) == {1}
