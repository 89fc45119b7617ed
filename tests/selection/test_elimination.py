"""Backward elimination against the same search by direct solves, and what it makes of whole graphs."""

import numpy as np
import onnx
import pytest
from graphs import Builder, plan_for
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.channels.groups import WeightAxis, analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.graph import Constant, GraphIndex
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions, RunOptions
from lbyl_onnx.selection import CRITERIA, elimination
from lbyl_onnx.selection.criteria import RankingTask
from lbyl_onnx.selection.elimination import ConsumerMoments, Elimination, consumer_input, eliminate
from lbyl_onnx.selection.plan import reasons_to_leave, units_kept

RIDGE = 1e-3
"""What `eliminate` adds by default."""


def consumer(units, axis=1, op="Conv"):
    weight = Constant("weight", np.dtype(np.float32), exclusive=True)
    return WeightAxis(0, 1, "consumer", op, weight, axis, np.asarray(units), 1)


def measured(rows, weight):
    """Statistics of a consumer that reads every unit once: rows (positions, units), weight (outputs, units)."""
    statistics = ConsumerMoments(consumer(np.arange(rows.shape[1])), rows.shape[1], weight)
    for part in np.array_split(rows, 3):
        statistics.add(part.astype(np.float32))
    return statistics


def problem(seed, units, consumers=1, positions=400):
    """Correlated activations and weights for each consumer."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(consumers):
        mixing = rng.standard_normal((units, units)) * rng.uniform(0.2, 2, units)
        rows = rng.standard_normal((positions, units)) @ mixing + 5 * rng.standard_normal(units)
        weight = rng.standard_normal((3, units)) * rng.uniform(0.2, 2, units)
        result.append((rows.astype(np.float32).astype(np.float64), weight))
    return result


class Direct:
    """What removing units costs, each time from scratch."""

    def __init__(self, consumers):
        self.systems, self.variance = [], 0.0
        for rows, weight in consumers:
            covariance = np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)
            ridge = RIDGE * np.trace(covariance) / len(covariance)
            self.systems.append((covariance + ridge * np.eye(len(covariance)), weight.T))
            self.variance += np.trace(weight @ covariance @ weight.T)

    def error(self, removed):
        """What the best weights over the other units leave of the outputs' variance."""
        lost = 0.0
        for system, weight in self.systems:
            kept = np.setdiff1d(np.arange(len(system)), removed)
            wanted = system[kept] @ weight
            refitted = np.linalg.lstsq(system[np.ix_(kept, kept)], wanted, rcond=None)[0]
            lost += np.trace(weight.T @ system @ weight) - np.trace(wanted.T @ refitted)
        return lost / self.variance


def assert_greedy(found, direct, free):
    """Every unit removed is the one that costs least at that point, and the errors are those of direct solves."""
    gone = []
    for unit, error in zip(found.order, found.error, strict=True):
        candidates = {other: direct.error([*gone, other]) for other in np.flatnonzero(free) if other not in gone}
        assert candidates[unit] <= min(candidates.values()) * (1 + 1e-3) + 1e-6
        assert error == pytest.approx(candidates[unit], rel=1e-2, abs=1e-5)
        gone.append(unit)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), units=st.integers(2, 10), consumers=st.integers(1, 3))
def test_the_order_and_errors_of_a_direct_search(seed, units, consumers):
    parts = problem(seed, units, consumers)
    free = np.ones(units, bool)
    found = eliminate([measured(*part) for part in parts], free, units - 1)
    assert len(found.order) == len(found.error) == units - 1 == len(set(found.order.tolist()))
    assert_greedy(found, Direct(parts), free)
    assert (np.diff(found.error) >= -1e-6).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), data=st.data())
def test_units_that_must_stay_are_fitted_but_never_removed(seed, data):
    free = np.array(data.draw(st.lists(st.booleans(), min_size=8, max_size=8)))
    parts = problem(seed, 8)
    found = eliminate([measured(*part) for part in parts], free, 7)
    assert set(found.order.tolist()) <= set(np.flatnonzero(free).tolist()) and len(found.order) == min(7, free.sum())
    assert_greedy(found, Direct(parts), free)


def test_one_run_serves_every_ratio():
    parts = problem(3, 12)
    statistics = [measured(*part) for part in parts]
    whole = eliminate(statistics, np.ones(12, bool), 11)
    part = eliminate([measured(*part) for part in parts], np.ones(12, bool), 5)
    np.testing.assert_array_equal(part.order, whole.order[:5])
    np.testing.assert_allclose(part.error, whole.error[:5])


def test_large_groups_lose_several_units_a_step(monkeypatch):
    """The errors told are still those of direct solves, and little worse than those of single steps."""
    parts = problem(4, 30)
    single = eliminate([measured(*part) for part in parts], np.ones(30, bool), 20)
    monkeypatch.setattr(elimination, "STEPS", 8)
    several = eliminate([measured(*part) for part in parts], np.ones(30, bool), 20)
    assert len(several.order) == len(set(several.order.tolist())) == 20
    assert several.error[-1] == pytest.approx(Direct(parts).error(several.order), rel=1e-2)
    assert (1 - 1e-9) * single.error[-1] <= several.error[-1] <= 1.5 * single.error[-1]


def test_single_precision_is_enough(monkeypatch):
    parts = problem(5, 20)
    exact = eliminate([measured(*part) for part in parts], np.ones(20, bool), 15)
    monkeypatch.setattr(elimination, "SINGLE_PRECISION_UNITS", 1)
    rounded = eliminate([measured(*part) for part in parts], np.ones(20, bool), 15)
    assert rounded.error[-1] == pytest.approx(Direct(parts).error(rounded.order), rel=0.05)
    assert rounded.error[-1] == pytest.approx(exact.error[-1], rel=0.05)


def test_what_others_can_stand_in_for_goes_first_at_no_cost():
    """A double, a sum of two others, a constant and a channel that no weight reads."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 9))
    rows[:, 3] = -2 * rows[:, 0]
    rows[:, 4] = rows[:, 1] + rows[:, 2]
    rows[:, 5] = 7
    weight = rng.standard_normal((4, 9))
    weight[:, 6] = 0
    found = eliminate([measured(rows, weight)], np.ones(9, bool), 6)
    gone = set(found.order[:4].tolist())
    assert {5, 6} <= gone and len(gone & {0, 3}) == 1 and len(gone & {1, 2, 4}) == 1
    assert found.error[3] < 2e-3 < 0.02 < found.error[4]


def test_dead_inputs_cost_nothing():
    found = eliminate([measured(np.zeros((50, 4)), np.ones((2, 4)))], np.ones(4, bool), 3)
    assert len(found.order) == 3 and (found.error == 0).all()


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_any_scale(scale):
    ((rows, weight),) = problem(7, 8)
    plain = eliminate([measured(rows, weight)], np.ones(8, bool), 6)
    scaled = eliminate([measured(rows * scale, weight)], np.ones(8, bool), 6)
    np.testing.assert_array_equal(scaled.order, plain.order)
    np.testing.assert_allclose(scaled.error, plain.error, rtol=1e-2)


def test_importance_is_the_place_in_the_order():
    found = Elimination(np.array([4, 0, 2]), np.array([0.1, 0.2, 0.4])).ranking(6)
    np.testing.assert_array_equal(found.importance, [1, np.inf, 2, np.inf, 0, np.inf])
    assert [found.predicted_error(count) for count in range(5)] == [0, 0.1, 0.2, 0.4, None]


# ---- what a consumer reads


def test_statistics_of_a_large_mean():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((600, 4)) @ rng.standard_normal((4, 4))
    far = measured(rows + 1000, np.ones((1, 4))).covariance
    np.testing.assert_allclose(far, np.cov(rows.T, bias=True), rtol=2e-3, atol=2e-3)


def test_kernels_are_summed_over():
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((5, 4, 3, 2)).astype(np.float32)
    energy = ConsumerMoments(consumer(np.arange(4)), 4, weight).energy
    np.testing.assert_allclose(energy, np.einsum("oukl,ovkl->uv", weight, weight), rtol=1e-5, atol=1e-6)


def test_units_in_any_order_among_channels_of_others():
    """Channels 1, 2, 4 and 5 are units 1, 0, 1, 0; the others belong elsewhere."""
    units = np.array([-1, 1, 0, -1, 1, 0])
    rng = np.random.default_rng(3)
    rows, weight = rng.standard_normal((200, 6)).astype(np.float32), rng.standard_normal((3, 6))
    statistics = ConsumerMoments(consumer(units), 2, weight)
    statistics.add(rows)
    firsts, seconds = rows[:, [2, 1]], rows[:, [5, 4]]
    np.testing.assert_allclose(
        statistics.covariance, np.cov(np.concatenate([firsts, seconds]).T, bias=True), rtol=1e-4, atol=1e-5
    )
    expected = weight[:, [2, 1]].T @ weight[:, [2, 1]] + weight[:, [5, 4]].T @ weight[:, [5, 4]]
    np.testing.assert_allclose(statistics.energy, expected, rtol=1e-6)


# ---- whole graphs


def analysed(proto):
    model = load(proto)
    return analyse(model, probe(model))


def real(model, *sizes, seed=0):
    """Calibration by normal values of the model's input."""
    (value,) = [v for v in model.proto.graph.input]
    shape = [dim.dim_value or 5 for dim in value.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(seed)
    return Calibration([{value.name: rng.standard_normal((n, *shape)).astype(np.float32)} for n in sizes], False, "")


def activation(model, calibration, name, axis):
    """Rows (positions, channels) of a tensor over all batches."""
    exposed = model.copy()
    exposed.proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(exposed)
    values = [run(session, batch, [name])[0] for batch in calibration.batches]
    return np.concatenate([np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]) for value in values])


def rankings(analysis, calibration, **options):
    """What "obs" makes of every group that the options let lose units, by number."""
    chosen = PruneOptions(criterion="obs", **options)
    reasons = reasons_to_leave(analysis, chosen)
    groups = {number: group for number, group in enumerate(analysis.groups) if reasons[number] is None}
    counts = {n: group.units - units_kept(group.units, chosen.ratio, chosen.round_to) for n, group in groups.items()}
    return CRITERIA["obs"].rank(RankingTask(analysis, groups, counts, chosen, RunOptions("cpu"), calibration))


def eliminated(ranking):
    """The order and errors that a ranking stands for."""
    order = np.argsort(ranking.importance, kind="stable")[: np.isfinite(ranking.importance).sum()]
    np.testing.assert_array_equal(ranking.importance[order], np.arange(len(order)))
    return Elimination(order, ranking.errors)


def ranked(analysis, calibration, producer="producer", ratio=0.5, **options):
    number = next(number for number, g in enumerate(analysis.groups) if producer in [port.name for port in g.producers])
    found = rankings(analysis, calibration, ratio=ratio, scope="all", **options).get(number)
    return analysis.groups[number], None if found is None else eliminated(found)


def assert_ranks_like_direct(proto, producer="producer", ratio=0.75):
    """Ranking by one stepwise run is a direct search over activations of a plain run."""
    analysis = analysed(proto)
    calibration = real(analysis.model, 12, 5)
    group, found = ranked(analysis, calibration, producer, ratio)
    index = GraphIndex(analysis.model)
    parts = []
    for axis in group.consumers:
        name, channels = consumer_input(index, axis)
        weight = np.moveaxis(axis.weight.read(analysis.model).astype(np.float64), axis.axis, -1)
        order = np.argsort(axis.units)
        rows = activation(analysis.model, calibration, name, channels)[:, order].astype(np.float64)
        parts.append((rows, weight.reshape(-1, group.units)[:, order]))
    assert_greedy(found, Direct(parts), group.free)
    return group, found


def producer_of(graph, channels=8, shape=("N", 3, 6, 3)):
    kernel = [3] * (len(shape) - 2)
    return graph.node("Relu", graph.conv(graph.input(shape), 3, channels, kernel, name="producer"))


def test_one_consumer():
    graph = Builder()
    group, found = assert_ranks_like_direct(graph.model(graph.conv(producer_of(graph), 8, 4)))
    assert len(found.order) == 6 and group.units == 8


def test_several_consumers():
    graph = Builder()
    hidden = producer_of(graph)
    outputs = [graph.conv(hidden, 8, 4), graph.conv(graph.node("Neg", hidden), 8, 2, (1, 1))]
    group, _ = assert_ranks_like_direct(graph.model(*outputs))
    assert len(group.consumers) == 2


def test_conv_transpose_and_strided_consumers():
    graph = Builder()
    hidden = producer_of(graph)
    transposed = graph.node("ConvTranspose", hidden, graph.weight(8, 2, 3, 3))
    assert_ranks_like_direct(graph.model(transposed, graph.conv(hidden, 8, 3, strides=[2, 2])))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_consumers(transposed):
    graph = Builder()
    hidden = graph.node("Tanh", graph.gemm(graph.input(("N", 6)), 6, 8, name="producer"))
    weight = graph.weight(*(4, 8) if transposed else (8, 4))
    assert_ranks_like_direct(graph.model(graph.node("Gemm", hidden, weight, transB=transposed)))


def test_matmul_consumers_from_either_side():
    graph = Builder()
    hidden = graph.node("Tanh", graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer"))
    right = graph.matmul(hidden, 8, 4)
    turned = graph.node("Transpose", hidden, perm=[0, 2, 1])
    group, _ = assert_ranks_like_direct(graph.model(right, graph.node("MatMul", graph.weight(3, 8), turned)))
    assert sorted(axis.slot for axis in group.consumers) == [0, 1]


def test_a_flattened_consumer_reads_units_at_every_position():
    """Two places of each channel: the one unit that is dead and the one that is a double go first."""
    graph = Builder()
    flat = graph.node("Flatten", graph.conv(graph.input(("N", 3, 2, 1)), 3, 8, name="producer"))
    model = load(graph.model(graph.gemm(flat, 16, 4)))
    name = next(node.input[1] for node in model.proto.graph.node if node.op_type == "Conv")
    bias = next(node.input[2] for node in model.proto.graph.node if node.op_type == "Conv")
    for constant in (name, bias):
        value = model.weights[constant].copy()
        value[6] = 3 * value[1]
        value[2] = 0
        model.replace(constant, value)
    analysis = analyse(model, probe(model))
    group, found = ranked(analysis, real(model, 64))
    assert group.units == 8 and found.order[0] == 2 and found.order[1] in (1, 6)
    assert found.error[1] < 1e-3 < found.error[2]


def test_units_that_reach_an_output_are_not_ranked():
    """Half of the channels leave the model: they are measured, but stay."""
    graph = Builder()
    hidden = producer_of(graph)
    part = graph.node("Slice", hidden, graph.constant([0]), graph.constant([4]), graph.constant([1]))
    analysis = analysed(graph.model(graph.conv(hidden, 8, 4), part))
    group, found = ranked(analysis, real(analysis.model, 8), ratio=0.75)
    np.testing.assert_array_equal(np.flatnonzero(~group.free), np.arange(4))
    assert sorted(found.order.tolist()) == [4, 5, 6, 7]


def test_options_decide_which_groups_are_ranked():
    graph = Builder()
    hidden = producer_of(graph)
    hidden = graph.node("Relu", graph.conv(hidden, 8, 6, name="middle"))
    analysis = analysed(graph.model(graph.conv(hidden, 6, 4)))
    calibration = real(analysis.model, 4)
    names = [group.name for group in analysis.groups]
    for options, expected in [
        ({}, {"producer", "middle"}),
        ({"include": "mid"}, {"middle"}),
        ({"exclude": "mid"}, {"producer"}),
    ]:
        assert {names[number] for number in rankings(analysis, calibration, ratio=0.5, **options)} == expected
    found = rankings(analysis, calibration, ratio=0.5, round_to=4)
    counts = {names[number]: len(eliminated(each).order) for number, each in found.items()}
    assert counts == {"producer": 4, "middle": 2}


def test_a_group_without_a_consumer_to_measure_falls_back_on_weights():
    """A grouped convolution sums over parts of the channels, so it is not measured."""
    graph = Builder()
    grouped = graph.conv(producer_of(graph), 8, 8, group=2, name="grouped")
    analysis = analysed(graph.model(graph.conv(graph.node("Relu", grouped), 8, 2)))
    calibration = real(analysis.model, 4)
    assert ranked(analysis, calibration)[1] is None
    plan = plan_for(analysis, calibration, ratio=0.5, criterion="obs")
    choice = next(choice for choice in plan.choices if choice.group.name == "producer")
    assert choice.criterion == "l2" and choice.predicted_error is None
    units = choice.group.producers[0].features_of(choice.group.units)
    filters = choice.group.producers[0].weight.read(analysis.model)[units]
    norms = (filters**2).sum(axis=(1, 2, 3, 4))
    assert choice.removed.any() and norms[choice.removed].max() < norms[~choice.removed].min()


def test_the_choice_removes_the_head_of_the_order():
    graph = Builder()
    analysis = analysed(graph.model(graph.conv(producer_of(graph), 8, 4)))
    group, found = ranked(analysis, real(analysis.model, 8), ratio=0.5)
    choice = plan_for(analysis, real(analysis.model, 8), ratio=0.5, criterion="obs").choices[0]
    assert choice.group is group and choice.criterion == "obs"
    np.testing.assert_array_equal(np.flatnonzero(choice.removed), np.sort(found.order[:4]))
    assert choice.predicted_error == found.error[3]


def far_from_the_running_statistics():
    """BatchNormalization whose running mean silences every channel behind it; channel 5 doubles channel 1."""
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, bias=False, name="producer")
    vectors = [graph.constant(np.full(8, value)) for value in (1.0, 0.1, 1000.0, 1.0)]
    hidden = graph.node("Relu", graph.node("BatchNormalization", hidden, *vectors))
    model = load(graph.model(graph.conv(hidden, 8, 4)))
    weight = model.proto.graph.node[0].input[1]
    value = model.weights[weight].copy()
    value[5] = 2 * value[1]
    model.replace(weight, value)
    return model


def test_synthetic_samples_are_ranked_under_their_own_statistics():
    model = far_from_the_running_statistics()
    analysis = analyse(model, probe(model))
    given = real(model, 16, 16)
    made_up = Calibration(given.batches, True, "synthetic")
    found = ranked(analysis, made_up)[1]
    assert found.order[0] in (1, 5) and found.error[0] < 1e-3 < found.error[1]
    dead = ranked(analysis, given)[1]
    assert (dead.error == 0).all()


def test_positions_are_sampled_by_the_seed(monkeypatch):
    monkeypatch.setattr(elimination, "MAX_ROWS", 60)
    monkeypatch.setattr(elimination, "ROW_ELEMENTS", 60)
    graph = Builder()
    analysis = analysed(graph.model(graph.conv(producer_of(graph), 8, 4)))
    calibration = real(analysis.model, 8, 8)
    first, again, other = (ranked(analysis, calibration, seed=seed)[1].error for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_consumer_of_a_constant():
    """Learned tokens are added to the hidden values and multiplied by a weight of their own."""
    graph = Builder()
    tokens = graph.weight(1, 5, 8)
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node("Tanh", graph.node("Add", hidden, tokens))
    output = graph.node("Add", graph.matmul(hidden, 8, 4), graph.matmul(tokens, 8, 4))
    group, found = assert_ranks_like_direct(graph.model(output), ratio=0.5)
    assert len(found.order) == group.units // 2
