"""Sensitivities: the curves through their points, refits against least squares, and whole graphs against models whose
consumers were edited by hand."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from scipy.special import log_softmax

from lbyl_onnx.calibration.classes import is_sure
from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.calibration.staged_run import StagedRun
from lbyl_onnx.channels.groups import WeightAxis, analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import MeasurementFailed
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions, RunOptions
from lbyl_onnx.selection import consumer_moments, sensitivity
from lbyl_onnx.selection.criteria import Reading, Trial
from lbyl_onnx.selection.plan import rank, reasons_to_leave
from lbyl_onnx.selection.sensitivity import RIDGE, Curve, sensitivities, without

CPU = RunOptions("cpu")


# ---- curves


@st.composite
def curves(draw):
    counts = sorted(draw(st.sets(st.integers(1, 500), min_size=1, max_size=5)))
    steps = draw(st.lists(st.floats(0, 5), min_size=len(counts), max_size=len(counts)))
    return Curve(np.array(counts), np.cumsum(steps))


@settings(max_examples=100)
@given(curve=curves())
def test_a_curve_goes_through_its_points_and_never_falls(curve):
    np.testing.assert_allclose(curve.at(curve.removed), curve.divergence, rtol=1e-9, atol=1e-300)
    found = curve.at(np.arange(curve.removed[-1] + 1))
    assert found[0] == 0 and (np.diff(found) >= -1e-9 * found[1:]).all()


@settings(max_examples=50)
@given(curve=curves(), further=st.integers(1, 100))
def test_nobody_knows_what_lies_beyond_the_last_point(curve, further):
    assert curve.at(np.array([curve.removed[-1] + further])) == np.inf


@pytest.mark.parametrize(("power", "seen"), [(0.5, 1), (1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_curve_begins_with_the_power_of_its_first_points(power, seen):
    points = np.array([8, 16, 32])
    curve = Curve(points, (points / 8.0) ** power)
    np.testing.assert_allclose(curve.at(np.array([1, 2, 4])), np.array([1, 2, 4]) ** seen / 8.0**seen)


def test_between_its_points_a_curve_is_straight_in_logarithms():
    curve = Curve(np.array([2, 8, 32]), np.array([1.0, 4.0, 64.0]))
    np.testing.assert_allclose(curve.at(np.array([[4], [16]])), [[2.0], [16.0]])


# ---- refits


def reading_of(rows, whole):
    """What a consumer reads, of rows (positions, inputs)."""
    rows = rows.astype(np.float64)
    axis = WeightAxis(0, 1, "consumer", "Conv", None, 1, np.arange(1), 1)
    covariance = np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)
    return Reading(axis, rows.mean(axis=0), covariance, whole)


def units_at_taps(units, taps):
    """The inputs of each unit, where all units lie next to each other at each tap."""
    return np.arange(units)[:, None] + units * np.arange(taps)


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_is_lost_with_units_that_others_add_up_to(monkeypatch, whole):
    """Two of six units are sums of the others and a constant; all taps alike where rows are not read whole."""
    monkeypatch.setattr(sensitivity, "RIDGE", 1e-10)
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((3, 400, 4)) + 2
    every = np.concatenate([seen, seen @ rng.standard_normal((4, 2)) + [3, -1]], axis=2)
    rows = every.transpose(1, 0, 2).reshape(400, 18)
    reading = reading_of(rows if whole else every.reshape(-1, 6), whole)
    matrix = rng.standard_normal((5, 18))
    removed, kept = np.array([4, 5]), np.arange(4)
    found, shift = without(matrix, units_at_taps(6, 3), reading, kept, removed)
    assert not found[:, units_at_taps(6, 3)[removed].ravel()].any()
    assert np.abs(shift).max() > 0.1
    np.testing.assert_allclose(rows @ found.T + shift, rows @ matrix.T, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 5))
def test_refits_are_ridge_regressions(seed, count):
    """With A_KK + r I: least squares of the removed inputs on the kept ones and rows that hold the ridge."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12)) + rng.standard_normal(12)
    matrix, inputs = rng.standard_normal((3, 12)), units_at_taps(6, 2)
    removed = np.sort(rng.permutation(6)[:count])
    kept = np.setdiff1d(np.arange(6), removed)
    found, shift = without(matrix, inputs, reading_of(rows, True), kept, removed)
    gone, left = inputs[removed].ravel(), np.sort(inputs[kept].ravel())
    central = rows - rows.mean(axis=0)
    ridge = np.sqrt(RIDGE * central.var(axis=0).mean() * len(rows)) * np.eye(len(left))
    mixing = np.linalg.lstsq(
        np.vstack([central[:, left], ridge]), np.vstack([central[:, gone], np.zeros((len(left), len(gone)))]), None
    )[0]
    expected = np.zeros_like(matrix)
    expected[:, left] = matrix[:, left] + matrix[:, gone] @ mixing.T
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose((rows @ found.T + shift).mean(axis=0), (rows @ matrix.T).mean(axis=0), atol=1e-6)


def test_refits_leave_the_original_weights_alone():
    matrix = np.ones((2, 4))
    rows = np.random.default_rng(0).standard_normal((50, 4))
    without(matrix, units_at_taps(4, 1), reading_of(rows, True), np.array([0, 1]), np.array([2, 3]))
    assert (matrix == 1).all()


# ---- graphs


def samples(graph_input=(3, 6, 3), batches=4, rows=16, dtype=np.float32, synthetic=False, seed=1):
    rng = np.random.default_rng(seed)
    drawn = [{"x": rng.standard_normal((rows, *graph_input)).astype(dtype)} for _ in range(batches)]
    return Calibration(drawn, tuple(number % 2 for number in range(batches)), synthetic, "drawn")


class Measured:
    """A graph's groups, ranked as `compress` ranks them, and their curves."""

    def __init__(self, proto, calibration, order=None):
        self.model = load(proto)
        self.calibration = calibration
        self.analysis = analyse(self.model, probe(self.model))
        options = PruneOptions(0.5, scope="all")
        reasons = reasons_to_leave(self.analysis, options)
        most = {n: int(0.875 * group.units) for n, group in enumerate(self.analysis.groups)}
        found = rank(self.analysis, reasons, most, options, CPU, calibration)
        trials = {
            n: each.ranking.trial or Trial(np.argsort(each.ranking.importance)[: most[n]], ())
            for n, each in found.items()
            if self.analysis.groups[n].consumers
        }
        self.trials = {
            n: trial if order is None else replace(trial, order=np.array(order)) for n, trial in trials.items()
        }
        self.curves = sensitivities(self.analysis, self.trials, calibration, CPU)

    def number(self, producer):
        groups = self.analysis.groups
        return next(n for n, group in enumerate(groups) if any(port.name == producer for port in group.producers))

    def curve(self, producer):
        return self.curves[self.number(producer)]

    def by_hand(self, number, original=None):
        """The divergence at each of a curve's points, of whole models."""
        found = [self.lost(number, count, original or self.model) for count in self.curves[number].removed.tolist()]
        return np.maximum.accumulate(found)

    def lost(self, number, count, original):
        """What the outputs that change lose on the second fold once the first `count` units are gone."""
        edited = self.edited(number, count, original)
        judged = [batch for batch, fold in zip(self.calibration.batches, self.calibration.folds, strict=True) if fold]
        before, after = (
            [np.concatenate(values) for values in zip(*(run(open_session(each), feed) for feed in judged), strict=True)]
            for each in (original, edited)
        )
        names = [output.name for output in original.proto.graph.output]
        following = self.behind(number)
        compared = [name in following and value.dtype.kind == "f" for name, value in zip(names, before, strict=True)]
        return np.mean([away(before[n], after[n]) for n in np.flatnonzero(compared)])

    def behind(self, number):
        """The tensors that follow a group's consumers."""
        nodes = self.model.proto.graph.node
        reached = {nodes[axis.node].output[0] for axis in self.analysis.groups[number].consumers}
        for node in nodes:
            if reached & set(node.input):
                reached |= set(node.output)
        return reached

    def edited(self, number, count, original):
        """The model whose consumers do without the first `count` units, refitted by the normal equations."""
        model = original.copy()
        group, trial = self.analysis.groups[number], self.trials[number]
        removed = np.sort(trial.order[:count])
        readings = {reading.consumer.node: reading for reading in trial.readings}
        later = {}
        for axis in group.consumers:
            name = axis.weight.name
            weight = np.moveaxis(model.weights[name], axis.axis, -1).astype(np.float64)
            gone = np.flatnonzero(np.isin(axis.units, removed))
            if axis.node not in readings:
                weight[..., gone] = 0
            else:
                weight, shift = refitted(weight, axis, readings[axis.node], gone, removed, group.units)
                later[axis.node] = shift * factor(model.proto.graph.node[axis.node])
            model.replace(name, np.moveaxis(weight, -1, axis.axis).astype(model.weights[name].dtype))
        with_shifts(model, later)
        return model


def away(before, after):
    """How far an output is from the original's: in nats if these are classes that the original is sure of, else as a
    share of what differs between samples."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    if before.size == len(before) * before.shape[1]:
        scores = [each.reshape(len(each), -1) for each in (before, after)]
        known = (scores[0] >= 0).all()
        logs = [np.log(each) if known else log_softmax(each, axis=1) for each in scores]
        if is_sure(np.exp(logs[0]).max(axis=1).mean(), before.shape[1]):
            return (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean()
    return np.square(after - before).sum() / (before.var(axis=0, ddof=1).sum() * len(before))


def refitted(weight, axis, reading, gone, removed, units):
    """A weight, outputs on its first and inputs on its last axis, without some units, and the shift of its outputs."""
    matrix = weight.reshape(len(weight), -1, weight.shape[-1])
    taps, channels = matrix.shape[1:]
    if reading.whole:
        lost = np.zeros((taps, channels), bool)
        lost[:, gone] = True
        lost = lost.ravel()
    else:
        lost = np.isin(np.arange(units), removed)
    covariance = reading.covariance.astype(np.float64)
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    system = covariance[np.ix_(~lost, ~lost)] + ridge * np.eye((~lost).sum())
    mixing = np.linalg.solve(system, covariance[np.ix_(~lost, lost)])
    missing = reading.mean[lost] - reading.mean[~lost] @ mixing
    if reading.whole:
        flat = matrix.reshape(len(matrix), -1)
        found = np.zeros_like(flat)
        found[:, ~lost] = flat[:, ~lost] + flat[:, lost] @ mixing.T
        return found.reshape(weight.shape), flat[:, lost] @ missing
    by_unit = np.stack([matrix[:, :, axis.units == unit].reshape(len(matrix), -1) for unit in range(units)], axis=1)
    found, places = np.zeros_like(matrix), [np.flatnonzero(axis.units == unit) for unit in range(units)]
    new = by_unit[:, ~lost] + np.einsum("oru,kr->oku", by_unit[:, lost], mixing)
    for position, unit in enumerate(np.flatnonzero(~lost)):
        found[:, :, places[unit]] = new[:, position].reshape(len(matrix), taps, -1)
    return found.reshape(weight.shape), np.einsum("oru,r->o", by_unit[:, lost], missing)


def factor(node):
    return next((each.f for each in node.attribute if each.name == "alpha"), 1.0)


def with_shifts(model, shifts):
    """Add a constant to the channels that some nodes make."""
    nodes = list(model.proto.graph.node)
    del model.proto.graph.node[:]
    for number, node in enumerate(nodes):
        if number in shifts:
            output, shift = node.output[0], shifts[number].astype(np.float32)
            convolution = "Conv" in node.op_type
            rank = model.weights[node.input[1]].ndim
            value = shift.reshape(-1, *[1] * (rank - 2)) if convolution else shift
            model.add(f"{output}_shift", value.astype(model.weights[node.input[1]].dtype))
            node.output[0] = f"{output}_plain"
            model.proto.graph.node.append(node)
            model.proto.graph.node.append(
                onnx.helper.make_node("Add", [f"{output}_plain", f"{output}_shift"], [output])
            )
        else:
            model.proto.graph.node.append(node)


def relu_chain(graph):
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    hidden = graph.node("Relu", graph.conv(hidden, 8, 12, (3, 1), name="next"))
    return [graph.conv(hidden, 12, 4, bias=False)]


def normalised(graph):
    hidden = graph.node("Relu", graph.batch_norm(graph.conv(graph.input(), 3, 8, name="producer"), 8))
    return [graph.conv(hidden, 8, 4, strides=[2, 1])]


def flattened(graph):
    """Scores of classes."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    hidden = graph.node("Relu", graph.gemm(graph.node("Flatten", hidden), 8 * 18, 16, name="hidden"))
    return [graph.gemm(hidden, 16, 5)]


def with_probabilities(graph):
    (scores,) = flattened(graph)
    return [graph.node("Softmax", scores, axis=1)]


def pooled(graph):
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    return [graph.conv(graph.node("GlobalAveragePool", hidden), 8, 6, (1, 1))]


def depthwise(graph):
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    hidden = graph.node("Relu", graph.conv(hidden, 8, 8, group=8, name="depthwise"))
    return [graph.conv(hidden, 8, 4, (1, 1))]


def residual(graph):
    """A stream of two branches, which both a convolution of the second and the last one read."""
    stem = graph.conv(graph.input(), 3, 8, name="producer")
    branch = graph.conv(graph.node("Relu", graph.conv(stem, 8, 8, name="inner")), 8, 8)
    return [graph.conv(graph.node("Relu", graph.node("Add", stem, branch)), 8, 4)]


def concatenated(graph):
    stem = graph.input()
    parts = [graph.conv(stem, 3, 8, name="producer"), graph.conv(stem, 3, 6, (1, 1), name="other")]
    return [graph.conv(graph.node("Relu", graph.node("Concat", *parts, axis=1)), 14, 4)]


def transposed(graph):
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    return [graph.node("ConvTranspose", hidden, graph.weight(8, 5, 3, 3), strides=[2, 1], pads=[1, 0, 1, 0])]


def pooled_in_front(graph):
    """Of so few samples that the rows in front of the pooling are measured."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 32, name="producer"))
    return [graph.gemm(graph.node("Flatten", graph.node("GlobalAveragePool", hidden)), 32, 6)]


def rows(graph):
    hidden = graph.node("Relu", graph.matmul(graph.input(("N", 3, 6, 3)), 3, 8, name="producer"))
    return [graph.matmul(hidden, 8, 4)]


def several_outputs(graph):
    """One in front of the consumer, classes and a map behind it, and one of integers."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    early = graph.conv(graph.node("Neg", "x"), 3, 2, name="apart")
    last = graph.conv(hidden, 8, 4, name="consumer")
    scores = graph.node("Flatten", graph.node("GlobalAveragePool", last))
    return [early, scores, graph.node("Tanh", last), graph.node("ArgMax", scores, axis=1)]


def one_of_two_measured(graph):
    """The second consumer has convolution groups, of which no moments are taken."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 16, name="producer"))
    return [graph.conv(hidden, 16, 4, (1, 1)), graph.conv(hidden, 16, 4, group=2)]


def none_measured(graph):
    """The only consumer has convolution groups."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 32, name="producer"))
    return [graph.conv(hidden, 32, 8, group=2)]


def both_weights(graph):
    """A recurrent layer that starts with what it reads first, so that both of its weights read the same units."""
    rows = graph.node("Transpose", graph.input(("N", 5, 4)), perm=[1, 0, 2])
    read = graph.matmul(rows, 4, 8, name="producer")
    start = graph.node("Gather", read, graph.constant([0]), axis=0)
    weights = graph.weight(1, 8, 8), graph.weight(1, 8, 8)
    hidden = graph.node("RNN", read, *weights, "", "", start, hidden_size=8, name="layer")
    rows = graph.node("Transpose", graph.node("Squeeze", hidden, graph.constant([1])), perm=[1, 0, 2])
    return [graph.matmul(rows, 8, 3)]


NETWORKS = (
    *(relu_chain, normalised, flattened, with_probabilities, pooled, depthwise, residual, concatenated, transposed),
    *(pooled_in_front, rows, several_outputs, one_of_two_measured, none_measured),
)


def made(network, **options):
    graph = Builder(**options)
    return graph.model(*network(graph))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_divergence_is_that_of_the_model_whose_consumers_were_edited(network):
    measured = Measured(made(network), samples())
    assert measured.number("producer") in measured.curves
    for number, curve in measured.curves.items():
        assert (curve.divergence > 0).all()
        np.testing.assert_allclose(curve.divergence, measured.by_hand(number), rtol=2e-3, atol=1e-7)


def test_both_weights_of_one_node_do_without_the_units():
    measured = Measured(made(both_weights), samples((5, 4)))
    number = measured.number("producer")
    layer = measured.model.proto.graph.node[-4]
    consumers = [(axis.node, axis.slot) for axis in measured.analysis.groups[number].consumers]
    assert layer.op_type == "RNN" and {(len(measured.model.proto.graph.node) - 4, slot) for slot in (1, 2)} < {
        *consumers
    }
    np.testing.assert_allclose(measured.curves[number].divergence, measured.by_hand(number), rtol=2e-3, atol=1e-7)


def heads(graph, both):
    """One head, and behind all of its nodes another one of the same input."""

    def head(name):
        hidden = graph.node("Relu", graph.conv("x", 3, 8, name=name))
        return graph.gemm(graph.node("Flatten", graph.conv(hidden, 8, 4)), 72, 5)

    graph.input()
    first = head("first")
    return [first, head("second")] if both else [first]


def test_outputs_that_do_not_follow_a_group_say_nothing_of_it():
    both, alone = (Measured(made(lambda graph, both=both: heads(graph, both)), samples()) for both in (True, False))
    np.testing.assert_allclose(both.curve("first").divergence, alone.curve("first").divergence, rtol=1e-4)
    number = both.number("second")
    np.testing.assert_allclose(both.curves[number].divergence, both.by_hand(number), rtol=2e-3)


@pytest.mark.parametrize("network", [relu_chain, flattened, none_measured])
def test_known_curves_are_followed_further(network):
    """Up to seven eighths of the units, without measuring what is known again."""
    measured = Measured(made(network), samples())
    known = {n: replace(curve, divergence=curve.divergence * 2) for n, curve in measured.curves.items()}
    further = sensitivities(measured.analysis, measured.trials, measured.calibration, CPU, known=known)
    for number, curve in further.items():
        units, before = measured.analysis.groups[number].units, known[number]
        assert {round(0.75 * units), round(0.875 * units)} <= {*curve.removed.tolist()}
        np.testing.assert_array_equal(curve.divergence[: len(before.removed)], before.divergence)
        lost = [measured.lost(number, count, measured.model) for count in curve.removed[len(before.removed) :].tolist()]
        expected = np.maximum.accumulate([before.divergence[-1], *lost])[1:]
        np.testing.assert_allclose(curve.divergence[len(before.removed) :], expected, rtol=2e-3)


def test_half_precision_stays_what_it_is():
    """Divergences of half precision are those of single precision but for its rounding."""
    proto = made(relu_chain)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    measured = Measured(proto, samples(dtype=np.float16))
    assert len(measured.curves) == 2
    for number, curve in measured.curves.items():
        np.testing.assert_allclose(curve.divergence, measured.by_hand(number), rtol=0.05, atol=1e-5)


def test_a_transposed_product_has_a_factor():
    graph = Builder()
    hidden = graph.node("Relu", graph.gemm(graph.input(("N", 8)), 8, 16, name="producer"))
    scores = graph.node("Gemm", hidden, graph.weight(16, 4), graph.weight(4), alpha=0.5, beta=2.0)
    measured = Measured(graph.model(scores), samples((8,)))
    np.testing.assert_allclose(
        measured.curve("producer").divergence, measured.by_hand(measured.number("producer")), rtol=2e-3
    )


def test_made_up_samples_are_judged_with_their_own_normalisation():
    calibration = samples(synthetic=True)
    measured = Measured(made(normalised), calibration)
    own = measured.model.copy()
    (node,) = (node for node in own.proto.graph.node if node.op_type == "BatchNormalization")
    exposed = own.copy()
    exposed.proto.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
    values = np.concatenate([run(open_session(exposed), batch)[-1] for batch in calibration.batches])
    own.replace(node.input[3], values.mean(axis=(0, 2, 3)))
    own.replace(node.input[4], values.var(axis=(0, 2, 3)))
    number = measured.number("producer")
    np.testing.assert_allclose(measured.curves[number].divergence, measured.by_hand(number, own), rtol=5e-3)


def test_judged_on_samples_that_chose_nothing():
    measured = Measured(made(relu_chain), samples())
    number = measured.number("producer")

    def judged(fold):
        other = samples(seed=2)
        batches = [
            new if each == fold else old
            for new, old, each in zip(other.batches, measured.calibration.batches, other.folds, strict=True)
        ]
        calibration = replace(measured.calibration, batches=batches)
        return sensitivities(measured.analysis, measured.trials, calibration, CPU)[number].divergence

    assert (judged(0) == measured.curves[number].divergence).all()
    assert (judged(1) != measured.curves[number].divergence).all()


@pytest.mark.parametrize(("elements", "judging"), [(10**9, range(8)), (0, (0, 4, 7))], ids=("few", "many"))
def test_large_outputs_are_judged_on_fewer_batches_from_everywhere(monkeypatch, elements, judging):
    """Samples of the other batches may be anything."""
    monkeypatch.setattr(sensitivity, "JUDGED_ELEMENTS", elements)
    monkeypatch.setattr(sensitivity, "LEAST_JUDGED", 3)
    measured = Measured(made(relu_chain), samples(batches=16))
    number = measured.number("producer")
    for place in range(8):
        batches = list(measured.calibration.batches)
        batches[2 * place + 1] = {"x": batches[2 * place + 1]["x"] + 1}
        calibration = replace(measured.calibration, batches=batches)
        found = sensitivities(measured.analysis, measured.trials, calibration, CPU)[number].divergence
        assert (found[0] != measured.curves[number].divergence[0]) == (place in judging)


# ---- what costs nothing


def producing(weight, bias, consumer, shape=(3, 6, 3)):
    """A producer of eight filters with this weight and bias, a Relu, and what follows."""
    graph = Builder()
    weights = graph.constant(weight), graph.constant(bias)
    hidden = graph.node("Relu", graph.node("Conv", graph.input(("N", *shape)), *weights, pads=[1] * 4, name="producer"))
    return graph.model(consumer(graph, hidden))


def doubled(seed=0):
    """Filters of which the last four are multiples of the first."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    return np.concatenate([weight, 2 * weight]), np.concatenate([bias, 2 * bias])


CONSUMERS = {
    "Conv": lambda graph, hidden: graph.conv(hidden, 8, 4),
    "strided": lambda graph, hidden: graph.conv(hidden, 8, 4, (3, 2), strides=[2, 1], pads=[0, 1, 0, 0]),
    "ConvTranspose": lambda graph, hidden: graph.node("ConvTranspose", hidden, graph.weight(8, 5, 3, 2), pads=[1] * 4),
    "Gemm": lambda graph, hidden: graph.gemm(graph.node("Flatten", hidden), 144, 4),
    "pooled": lambda graph, hidden: graph.gemm(graph.node("Flatten", graph.node("GlobalAveragePool", hidden)), 8, 4),
}


@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")
@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("whole", [True, False])
def test_units_that_are_multiples_of_others_cost_nothing(monkeypatch, consumer, whole):
    monkeypatch.setattr(sensitivity, "RIDGE", 1e-6)
    if not whole:
        monkeypatch.setattr(consumer_moments, "WHOLE_INPUTS", 0)
    proto = producing(*doubled(), CONSUMERS[consumer])
    spared = Measured(proto, samples(rows=128), order=[4, 5, 6, 7])
    (reading,) = next(iter(spared.trials.values())).readings
    assert reading.whole == whole
    assert spared.curve("producer").divergence.max() < 1e-6
    needed = Measured(proto, samples(), order=[4, 0, 5, 1])
    assert needed.curve("producer").divergence[-1] > 1e-4


@pytest.mark.parametrize("alive", [0.0, 3.0])
def test_units_that_never_change_cost_nothing(alive):
    """Dead ones, and those that a shift makes up for where there is no padding."""
    weight, bias = (part.copy() for part in doubled())
    weight[:4], bias[:4] = 0, alive
    proto = producing(weight, bias, lambda graph, hidden: graph.conv(hidden, 8, 4, pads=[0] * 4))
    assert Measured(proto, samples(), order=[2, 0, 3, 1]).curve("producer").divergence.max() < 1e-9


# ---- what is left out


def test_a_group_that_no_output_follows_has_no_curve():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    out = graph.conv(graph.node("Relu", graph.conv("x", 3, 8, name="other")), 8, 4)
    graph.conv(hidden, 8, 4, name="unused")
    measured = Measured(graph.model(out), samples())
    assert measured.number("producer") in measured.trials
    assert list(measured.curves) == [measured.number("other")]


def test_a_model_that_tells_nothing_cannot_be_measured():
    graph = Builder()
    (out,) = flattened(graph)
    with pytest.raises(MeasurementFailed, match="no output is a tensor of floating-point numbers"):
        Measured(graph.model(graph.node("ArgMax", out, axis=1)), samples())


def test_a_model_whose_outputs_never_change_cannot_be_measured():
    graph = Builder()
    (out,) = flattened(graph)
    with pytest.raises(MeasurementFailed, match="that differs between samples"):
        Measured(graph.model(graph.node("Mul", out, graph.constant(0.0))), samples())


def test_outputs_that_never_change_do_not_count():
    def curve(extra):
        graph = Builder()
        (out,) = flattened(graph)
        still = [graph.node("Mul", out, graph.constant(0.0))] if extra else []
        return Measured(graph.model(out, *still), samples()).curves

    alone, beside = curve(False), curve(True)
    assert alone.keys() == beside.keys()
    for number, found in alone.items():
        np.testing.assert_allclose(found.divergence, beside[number].divergence, rtol=1e-4)


def test_a_group_of_few_units_has_as_many_points_as_it_can():
    measured = Measured(made(relu_chain), samples(), order=[3, 1])
    assert measured.curve("producer").removed.tolist() == [1, 2]


@pytest.mark.parametrize("order", [[4, 5, 6, 7, 0, 1, 2], [0, 4, 1, 5, 2, 6, 3]])
def test_one_more_point_lies_where_it_tells_most(order):
    """Beyond half of the units where half can go, in front of an eighth where they cannot."""
    proto = producing(*doubled(), lambda graph, hidden: graph.gemm(graph.node("Flatten", hidden), 144, 4))
    curve = Measured(proto, samples(), order=order).curve("producer")
    half = curve.divergence[curve.removed.tolist().index(4)]
    assert (6 in curve.removed) == (half < sensitivity.SPARED)


# ---- runs of what is left of a model


@pytest.fixture
def halfway():
    """A run that has stopped in front of the last layer, its model and its batches."""
    model = load(made(relu_chain))
    batches = samples().batches
    run_ = StagedRun(model, batches, CPU)
    last = model.proto.graph.node[-1]
    run_.approach(last.output[0])
    yield run_, model, batches, last
    run_.close()


def test_the_rest_runs_as_the_whole_does(halfway):
    run_, model, batches, last = halfway
    assert [node.output[0] for node in run_.ahead()] == [last.output[0]]
    rest = run_.rest(run_.ahead(), {}, [last.output[0]])
    for found, batch in zip(rest({}), batches, strict=True):
        np.testing.assert_allclose(found[last.output[0]], run(open_session(model), batch)[0], rtol=1e-4, atol=1e-5)


def test_the_rest_leaves_the_run_where_it_is(halfway):
    run_, model, batches, last = halfway
    weight = model.weights[last.input[1]]
    changed = onnx.NodeProto()
    changed.CopyFrom(last)
    changed.input[1] = "given"
    rest = run_.rest([changed], {"given": weight}, [last.output[0]])
    plain = [run(open_session(model), batch)[0] for batch in batches]
    for factor in (2, 3):
        for found, whole in zip(rest({"given": factor * weight}), plain, strict=True):
            np.testing.assert_allclose(found[last.output[0]], factor * whole, rtol=1e-3, atol=1e-4)
    assert list(run_.ahead()) == [last]
    run_.reach(last.output[0])
    for found, whole in zip(run_.values(last.output[0]), plain, strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


def test_the_values_of_some_batches(halfway):
    run_, _, _, last = halfway
    every = list(run_.values(last.input[0]))
    found = run_.batches(last.input[0], [0, 2])
    assert len(found) == 2 and all((mine == every[n]).all() for mine, n in zip(found, (0, 2), strict=True))
