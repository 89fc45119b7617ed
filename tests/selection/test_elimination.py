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
from lbyl_onnx.selection import CRITERIA, consumer_moments, elimination
from lbyl_onnx.selection.consumer_moments import ConsumerMoments, consumer_input
from lbyl_onnx.selection.criteria import RankingTask
from lbyl_onnx.selection.elimination import GIVEN, MADE_UP, TRUSTING, Elimination, eliminate
from lbyl_onnx.selection.plan import reasons_to_leave, uniform_counts


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
    """What removing units costs, each time from scratch. `folds`: which fold each row belongs to, for each consumer."""

    def __init__(self, consumers, folds=None, guard=MADE_UP):
        self.consumers, self.folds = consumers, folds or [np.zeros(len(rows), int) for rows, _ in consumers]
        self.systems, self.variances = [], []
        for rows, weight in consumers:
            covariance = np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)
            mean = np.trace(covariance) / len(covariance)
            loud = np.array([max(variance, guard.quiet * mean) for variance in np.diag(covariance)])
            system = covariance.copy()
            np.fill_diagonal(system, loud + guard.ridge * mean)
            self.systems.append((system, weight.T))
            self.variances.append(np.trace(weight @ covariance @ weight.T))

    def search(self, free, count):
        """The order of units, each the cheapest at that point."""
        gone = []
        for _ in range(count):
            left = [unit for unit in np.flatnonzero(free) if unit not in gone]
            gone.append(min(left, key=lambda unit: self.cost([*gone, unit])))
        return gone

    def predicted(self, order):
        """The held-out error once half of the units are gone, and all, and what lies between on lines."""
        counts = sorted({len(order) // 2, len(order)} - {0})
        shares = [
            [held_out_errors([part], folds, order[:count]) for count in counts]
            for part, folds in zip(self.consumers, self.folds, strict=True)
        ]
        found = np.average(shares, axis=0, weights=self.variances)
        return np.interp(np.arange(1, len(order) + 1), [0, *counts], [0, *found])

    def cost(self, removed):
        """What the best weights over the other units, held back by the guard, lose."""
        lost = 0.0
        for system, weight in self.systems:
            kept = np.setdiff1d(np.arange(len(system)), removed)
            wanted = system[kept] @ weight
            refitted = np.linalg.lstsq(system[np.ix_(kept, kept)], wanted, rcond=None)[0]
            lost += np.trace(weight.T @ system @ weight) - np.trace(wanted.T @ refitted)
        return lost / sum(self.variances)


def assert_order(order, direct, free):
    """Every unit removed is the one that costs least at that point."""
    gone = []
    for unit in order:
        candidates = {other: direct.cost([*gone, other]) for other in np.flatnonzero(free) if other not in gone}
        assert candidates[unit] <= min(candidates.values()) * (1 + 1e-3) + 1e-6
        gone.append(unit)


def assert_greedy(found, direct, free):
    """The order is that of a direct search, and the errors are those of direct fits."""
    assert_order(found.order, direct, free)
    if len(found.order):
        np.testing.assert_allclose(found.error, direct.predicted(found.order), rtol=1e-2, atol=1e-5)


def ordered(moments, free, count, guard):
    """The order that a guard gives."""
    return elimination._order([each.covariance for each in moments], moments, free, count, guard)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), units=st.integers(2, 10), consumers=st.integers(1, 3))
def test_the_order_and_errors_of_a_direct_search(seed, units, consumers):
    parts = problem(seed, units, consumers)
    free = np.ones(units, bool)
    found = eliminate([measured(*part) for part in parts], free, units - 1)
    assert len(found.order) == len(found.error) == units - 1 == len(set(found.order.tolist()))
    assert_greedy(found, Direct(parts), free)
    assert (np.diff(found.error) >= -1e-6).all()


@pytest.mark.parametrize("guard", [TRUSTING, GIVEN, MADE_UP])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), units=st.integers(2, 10), consumers=st.integers(1, 3))
def test_the_order_of_a_direct_search_by_any_guard(guard, seed, units, consumers):
    parts = problem(seed, units, consumers)
    free = np.ones(units, bool)
    order = ordered([measured(*part) for part in parts], free, units - 1, guard)
    assert len(set(order.tolist())) == units - 1
    assert_order(order, Direct(parts, guard=guard), free)


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
    assert part.error[4] == pytest.approx(whole.error[4])  # predicted after half of 11


def test_large_groups_lose_several_units_a_step(monkeypatch):
    """The errors told are still those of direct solves, and little worse than those of single steps."""
    parts = problem(4, 30)
    single = eliminate([measured(*part) for part in parts], np.ones(30, bool), 20)
    monkeypatch.setattr(elimination, "STEPS", 8)
    several = eliminate([measured(*part) for part in parts], np.ones(30, bool), 20)
    assert len(several.order) == len(set(several.order.tolist())) == 20
    assert several.error[-1] == pytest.approx(Direct(parts).predicted(several.order)[-1], rel=1e-2)
    assert (1 - 1e-9) * single.error[-1] <= several.error[-1] <= 1.5 * single.error[-1]


def test_single_precision_is_enough(monkeypatch):
    parts = problem(5, 20)
    exact = eliminate([measured(*part) for part in parts], np.ones(20, bool), 15)
    monkeypatch.setattr(elimination, "SINGLE_PRECISION_UNITS", 1)
    rounded = eliminate([measured(*part) for part in parts], np.ones(20, bool), 15)
    assert rounded.error[-1] == pytest.approx(Direct(parts).predicted(rounded.order)[-1], rel=0.05)
    assert rounded.error[-1] == pytest.approx(exact.error[-1], rel=0.05)


def with_doubles():
    """Of nine channels: a double, a sum of two others, a constant and one that no weight reads."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 9))
    rows[:, 3] = -2 * rows[:, 0]
    rows[:, 4] = rows[:, 1] + rows[:, 2]
    rows[:, 5] = 7
    weight = rng.standard_normal((4, 9))
    weight[:, 6] = 0
    return rows, weight


def test_what_others_can_stand_in_for_goes_first_at_no_cost():
    """Where every row is a sample, so that doubles may be trusted."""
    part, folds = with_doubles(), np.arange(500) % 2
    four, five = (
        eliminate([measured_in_folds(*part, folds, rows_are_samples=True)], np.ones(9, bool), count) for count in (4, 5)
    )
    gone = set(four.order.tolist())
    assert {5, 6} <= gone and len(gone & {0, 3}) == 1 and len(gone & {1, 2, 4}) == 1
    assert four.error[-1] < 2e-3 < 0.02 < five.error[-1]


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
    """Calibration by normal values of the model's input, in batches of these sizes and two folds."""
    (value,) = [v for v in model.proto.graph.input]
    shape = [dim.dim_value or 5 for dim in value.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(seed)
    batches = [{value.name: rng.standard_normal((n, *shape)).astype(np.float32)} for n in sizes]
    return Calibration(batches, tuple(number % 2 for number in range(len(sizes))), False, "")


def activation(model, calibration, name, axis):
    """Rows (positions, channels) of a tensor over all batches, and the fold of each."""
    exposed = model.copy()
    exposed.proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(exposed)
    values = [run(session, batch, [name])[0] for batch in calibration.batches]
    rows = [np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]) for value in values]
    return np.concatenate(rows), np.repeat(calibration.folds, [len(part) for part in rows])


def rankings(analysis, calibration, **options):
    """What "obs" makes of every group that the options let lose units, by number; all lose the same share."""
    chosen = PruneOptions(criterion="obs", **options)
    reasons = reasons_to_leave(analysis, chosen)
    groups = {number: group for number, group in enumerate(analysis.groups) if reasons[number] is None}
    counts = uniform_counts(analysis, reasons, chosen.ratio, chosen.round_to or 1)
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
    """Ranking by one stepwise run is a direct search over activations of a plain run, by the guard that loses less on
    the fold that it was not chosen by, where every row is a sample, else by that of given samples."""
    analysis = analysed(proto)
    calibration = real(analysis.model, 12, 5)
    group, found = ranked(analysis, calibration, producer, ratio)
    index = GraphIndex(analysis.model)
    parts, folds = [], []
    for axis in group.consumers:
        name, channels = consumer_input(index, axis)
        weight = np.moveaxis(axis.weight.read(analysis.model).astype(np.float64), axis.axis, -1)
        order = np.argsort(axis.units)
        rows, fold_of = activation(analysis.model, calibration, name, channels)
        parts.append((rows[:, order].astype(np.float64), weight.reshape(-1, group.units)[:, order]))
        folds.append(fold_of)
    single = all(len(rows) == 12 + 5 for rows, _ in parts)
    guard = better_guard(parts, folds, group.free, len(found.order)) if single else GIVEN
    assert_greedy(found, Direct(parts, folds, guard), group.free)
    return group, found


def better_guard(parts, folds, free, count, wary=GIVEN):
    """TRUSTING or this; of two folds, which each row of each consumer belongs to."""
    lost = dict.fromkeys((TRUSTING, wary), 0.0)
    for guard in lost:
        for fold in (0, 1):
            fitted = [(rows[which != fold], weight) for (rows, weight), which in zip(parts, folds, strict=True)]
            removed = np.array(Direct(fitted, guard=guard).search(free, count))
            lost[guard] += sum(
                held_out_loss(*part, which, removed, [fold]) for part, which in zip(parts, folds, strict=True)
            )
    return wary if lost[wary] < elimination.CLEARLY * lost[TRUSTING] else TRUSTING


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
    group, found = ranked(analysis, real(model, 32, 32))
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
    made_up = Calibration(given.batches, given.folds, True, "made up")
    one, two = (ranked(analysis, made_up, ratio=ratio)[1] for ratio in (1 / 8, 2 / 8))
    assert one.order[0] == two.order[0] and one.order[0] in (1, 5) and one.error[-1] < 1e-3 < two.error[-1]
    dead = ranked(analysis, given)[1]
    assert (dead.error == 0).all()


def test_positions_are_sampled_by_the_seed(monkeypatch):
    monkeypatch.setattr(consumer_moments, "MAX_ROWS", 60)
    monkeypatch.setattr(consumer_moments, "ROW_ELEMENTS", 60)
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


# ---- errors that are predicted on samples that were not fitted


def measured_in_folds(rows, weight, fold_of, folds=2, rows_are_samples=False):
    """As `measured`, each row in a fold of its own."""
    units = rows.shape[1]
    statistics = ConsumerMoments(consumer(np.arange(units)), units, weight, folds, rows_are_samples)
    for part in np.array_split(np.arange(len(rows)), 3):
        for fold in range(folds):
            chosen = part[fold_of[part] == fold]
            if len(chosen):
                statistics.add(rows[chosen].astype(np.float32), fold)
    return statistics


def held_out_loss(rows, weight, fold_of, removed, judging):
    """The mean square error that is left of a consumer's outputs when the other units stand in for the `removed` ones
    in each fold of `judging` as fits to all other folds say, straight from the rows; by the ridge that is found
    downhill, as errors may have two valleys."""
    kept = np.setdiff1d(np.arange(rows.shape[1]), removed)
    by_ridge = {}
    for ridge in elimination.FIT_RIDGES:
        shares = []
        for fold in judging:
            judged = rows[fold_of == fold]
            fitted = rows[fold_of != fold] if len(np.unique(fold_of)) > 1 else rows
            fitted, judged = fitted - fitted.mean(axis=0), judged - judged.mean(axis=0)
            strength = ridge * (fitted**2).mean(axis=0).mean()
            penalty = np.sqrt(strength * len(fitted)) * np.eye(len(kept))
            system = np.concatenate([fitted[:, kept], penalty])
            wanted = np.concatenate([fitted[:, removed], np.zeros((len(kept), len(removed)))])
            transfer = np.linalg.lstsq(system, wanted, rcond=None)[0]
            missing = (judged[:, removed] - judged[:, kept] @ transfer) @ weight[:, removed].T
            shares.append((missing**2).sum() / len(judged))
        by_ridge[ridge] = np.mean(shares)
    return elimination.downhill(by_ridge.__getitem__, elimination.FIT_RIDGES, elimination.FIRST_TRIED)[1]


def held_out_errors(consumers, fold_of, removed):
    """The share of the outputs' variance that is left on all folds, each judged by fits to the others."""
    lost = sum(held_out_loss(*part, fold_of, removed, np.unique(fold_of)) for part in consumers)
    variance = sum(((rows - rows.mean(axis=0)) @ weight.T).var(axis=0).sum() for rows, weight in consumers)
    return lost / variance


def predicted(consumers, fold_of, removed):
    moments = [measured_in_folds(rows, weight, fold_of, int(fold_of.max()) + 1) for rows, weight in consumers]
    return elimination.predicted_errors(moments, np.asarray(removed))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    units=st.integers(3, 12),
    consumers=st.integers(1, 3),
    folds=st.integers(1, 3),
    positions=st.sampled_from([8, 40, 400]),
    data=st.data(),
)
def test_the_predicted_error_is_the_held_out_error(seed, units, consumers, folds, positions, data):
    parts = problem(seed, units, consumers, positions)
    fold_of = np.random.default_rng(seed).permutation(np.arange(positions) % folds)
    order = np.random.default_rng(seed).permutation(units)[: data.draw(st.integers(1, units - 1))]
    errors = predicted(parts, fold_of, order)
    assert len(errors) == len(order) and (errors >= 0).all()
    assert errors[-1] == pytest.approx(held_out_errors(parts, fold_of, order), rel=1e-3, abs=1e-5)
    half = int(len(order) / elimination.PREDICTED)
    if half:
        assert errors[half - 1] == pytest.approx(held_out_errors(parts, fold_of, order[:half]), rel=1e-3, abs=1e-5)


def test_eliminate_predicts_what_its_own_order_loses():
    parts = problem(11, 10, 2, 60)
    fold_of = np.arange(60) % 2
    found = eliminate([measured_in_folds(*part, fold_of) for part in parts], np.ones(10, bool), 6)
    assert found.error[-1] == pytest.approx(held_out_errors(parts, fold_of, found.order), rel=1e-3)
    np.testing.assert_array_equal(found.error, predicted(parts, fold_of, found.order))


def test_between_two_predictions_errors_lie_on_a_line():
    parts = problem(12, 12, 1, 100)
    errors = predicted(parts, np.arange(100) % 2, np.arange(8))
    steps = np.diff([0.0, *errors])
    np.testing.assert_allclose(steps[:4], errors[3] / 4, rtol=1e-9)
    np.testing.assert_allclose(steps[4:], (errors[7] - errors[3]) / 4, rtol=1e-9)
    assert predicted(parts, np.arange(100) % 2, np.arange(0)).shape == (0,)


def independent(rows, units):
    """Units that know nothing of one another, so that none can stand in for others."""
    rng = np.random.default_rng(rows)
    return rng.standard_normal((rows, units)), rng.standard_normal((5, units))


def test_fewer_rows_than_units_look_lossless_to_one_fold_only():
    part = independent(20, 100)
    removed = np.arange(30)
    alone, folds = (predicted([part], fold_of, removed)[-1] for fold_of in (np.zeros(20, int), np.arange(20) % 2))
    assert alone < 0.01 < 0.2 < folds


def test_with_many_rows_one_fold_and_two_agree():
    part = independent(5000, 20)
    removed = np.arange(6)
    alone, folds = (predicted([part], fold_of, removed)[-1] for fold_of in (np.zeros(5000, int), np.arange(5000) % 2))
    weight = part[1]
    share = (weight[:, :6] ** 2).sum() / (weight**2).sum()
    assert folds == pytest.approx(alone, rel=0.02) and folds == pytest.approx(share, rel=0.1)


def test_folds_do_not_change_the_order():
    part = problem(13, 12, 1, 300)[0]
    whole = eliminate([measured(*part)], np.ones(12, bool), 9)
    halves = eliminate([measured_in_folds(*part, np.arange(300) % 2)], np.ones(12, bool), 9)
    np.testing.assert_array_equal(halves.order, whole.order)
    assert (halves.error != whole.error).any()


def test_covariances_of_folds():
    rows, weight = problem(14, 5, 1, 90)[0]
    fold_of = np.repeat([0, 2], [30, 60])
    moments = measured_in_folds(rows, weight, fold_of, 3)
    assert moments.folds.tolist() == [0, 2] and moments.finite
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        moments.covariance_of(np.array([2])), np.cov(rows[30:].T, bias=True), rtol=1e-3, atol=1e-4
    )


def test_units_that_never_vary_are_predicted_to_cost_nothing():
    moments = measured_in_folds(np.full((20, 6), 3.0), np.ones((2, 6)), np.arange(20) % 2)
    assert (elimination.predicted_errors([moments], np.arange(4)) == 0).all()


def test_what_other_units_can_stand_in_for_costs_little_on_unseen_rows_too():
    rng = np.random.default_rng(15)
    rows = rng.standard_normal((400, 6))
    rows[:, 3:] = rows[:, :3] @ rng.standard_normal((3, 3))
    weight = rng.standard_normal((4, 6))
    fold_of = np.arange(400) % 2
    assert predicted([(rows, weight)], fold_of, [0, 1, 2])[-1] < 0.01
    assert predicted([(rows, weight)], fold_of, [0, 1, 2, 3])[-1] > 0.05


# ---- how far samples are trusted


def quiet_channel(weight_of_quiet, rows=600, units=10):
    """Independent channels, of which the first hardly varies; `weight_of_quiet`: the weights that read it."""
    rng = np.random.default_rng(16)
    values = rng.standard_normal((rows, units))
    values[:, 0] *= 0.02
    weight = rng.uniform(0.8, 1.2, (3, units))
    weight[:, 0] = weight_of_quiet
    return values, weight


@pytest.mark.parametrize("rows_are_samples", [False, True])
def test_a_quiet_channel_with_large_weights_is_not_the_first_to_go_on_made_up_samples(rows_are_samples):
    """On these samples it adds least of all; it may be loud on others."""
    part, free, folds = quiet_channel(20), np.ones(10, bool), np.arange(600) % 2
    moments = [measured_in_folds(*part, folds)]
    assert ordered(moments, free, 9, TRUSTING)[0] == 0
    assert 0 not in ordered(moments, free, 9, MADE_UP)
    found = eliminate([measured_in_folds(*part, folds, rows_are_samples=rows_are_samples)], free, 5).order
    assert (found[0] == 0) == rows_are_samples


def test_a_quiet_channel_with_small_weights_goes_first_nevertheless():
    moments, free = [measured(*quiet_channel(0.3))], np.ones(10, bool)
    assert [ordered(moments, free, 9, guard)[0] for guard in (TRUSTING, GIVEN, MADE_UP)] == [0, 0, 0]


def test_only_quiet_channels_are_lifted():
    """Those above the level are ranked as without it."""
    rng = np.random.default_rng(17)
    part = rng.standard_normal((600, 10)) * rng.uniform(0.9, 1.1, 10), rng.standard_normal((3, 10))
    moments, free = [measured(*part)], np.ones(10, bool)
    alike = MADE_UP._replace(quiet=0.0)
    np.testing.assert_array_equal(ordered(moments, free, 9, MADE_UP), ordered(moments, free, 9, alike))


def guard_of(*parts, fold_of, rows_are_samples, count, wary=GIVEN):
    """The guard chosen for consumers, each given as rows and weights."""
    moments = [
        measured_in_folds(*part, fold_of, rows_are_samples=single)
        for part, single in zip(parts, rows_are_samples, strict=True)
    ]
    return elimination._guard(moments, np.ones(parts[0][0].shape[1], bool), count, wary)


@pytest.mark.parametrize("wary", [GIVEN, MADE_UP])
def test_doubles_are_trusted_where_every_row_is_a_sample(wary):
    part, folds = with_doubles(), np.arange(500) % 2
    assert guard_of(part, fold_of=folds, rows_are_samples=[True], count=4, wary=wary) == TRUSTING
    assert guard_of(part, part, fold_of=folds, rows_are_samples=[True, True], count=4, wary=wary) == TRUSTING


@pytest.mark.parametrize("wary", [GIVEN, MADE_UP])
def test_rows_that_are_positions_and_single_folds_are_not_trusted(wary):
    part, folds = with_doubles(), np.arange(500) % 2
    assert guard_of(part, fold_of=folds, rows_are_samples=[False], count=4, wary=wary) == wary
    assert guard_of(part, part, fold_of=folds, rows_are_samples=[True, False], count=4, wary=wary) == wary
    assert guard_of(part, fold_of=np.zeros(500, int), rows_are_samples=[True], count=4, wary=wary) == wary


@pytest.mark.parametrize("wary", [GIVEN, MADE_UP])
def test_the_guard_is_the_one_that_loses_less_on_the_other_fold(wary):
    """Few rows or many, so that both win now and then."""
    found = []
    for seed in range(12):
        rows = (10, 24, 200)[seed % 3]
        parts, folds, free = problem(seed, 8, 1 + seed % 2, rows), np.arange(rows) % 2, np.ones(8, bool)
        chosen = guard_of(*parts, fold_of=folds, rows_are_samples=[True] * len(parts), count=4, wary=wary)
        assert chosen == better_guard(parts, [folds] * len(parts), free, 4, wary), seed
        found.append(chosen)
    assert set(found) == {TRUSTING, wary}


@pytest.mark.parametrize(("synthetic", "guard"), [(True, MADE_UP), (False, GIVEN)])
def test_made_up_samples_are_trusted_less_than_given_ones(synthetic, guard, monkeypatch):
    used, order = [], elimination._order
    monkeypatch.setattr(elimination, "_order", lambda *arguments: used.append(arguments[-1]) or order(*arguments))
    graph = Builder()
    analysis = analysed(graph.model(graph.conv(producer_of(graph), 8, 4)))
    given = real(analysis.model, 8, 8)
    assert ranked(analysis, Calibration(given.batches, given.folds, synthetic, ""))[1] is not None
    assert used == [guard]


@pytest.mark.parametrize(
    ("shape", "single"),
    [(("N", 6), True), (("N", 1, 6), True), (("N", 5, 6), False), ((4, 6), True), ((4, 5, 6), False)],
)
def test_rows_are_samples_where_an_input_has_one_position(shape, single, monkeypatch):
    seen, judge = [], elimination._guard
    monkeypatch.setattr(elimination, "_guard", lambda moments, *rest: seen.append(moments) or judge(moments, *rest))
    graph = Builder()
    hidden = graph.node("Tanh", graph.matmul(graph.input(shape), 6, 8, name="producer"))
    analysis = analysed(graph.model(graph.matmul(hidden, 8, 4)))
    assert ranked(analysis, real(analysis.model, 4, 4))[1] is not None
    assert [each.rows_are_samples for (each,) in seen] == [single]
