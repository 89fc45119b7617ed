"""Consumers take over what removed channels did: exactly, where a removed filter is a multiple of a kept one."""

import re

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper

from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.channels.groups import WeightAxis, analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.graph import Constant
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.restoration import RESTORATIONS
from lbyl_onnx.restoration.from_weights import mix_into
from lbyl_onnx.restoration.methods import RestoreTask
from lbyl_onnx.selection.plan import Choice, Plan

CHANNELS = 6
KEPT, GONE = [1, 0], [4, 3]
"""Channel 4 computes the double of channel 1, channel 3 that of channel 0."""

NO_PENALTY = PruneOptions(lambda1=0, lambda2=0)
METHODS = [name for name, method in RESTORATIONS.items() if method.mixer is not None]
"""Those that mix filters."""


class Doubling(Builder):
    """Makes layers "producer" whose channels in GONE compute the double of those in KEPT; constants of `dtype`."""

    def __init__(self, dtype=np.float32):
        super().__init__()
        self._dtype = dtype

    def constant(self, value, dtype=None, name=None):
        return super().constant(value, dtype or (self._dtype if np.asarray(value).dtype.kind == "f" else None), name)

    def _doubled(self, *shape):
        value = self.rng.standard_normal(shape)
        value[GONE] = 2 * value[KEPT]
        return value

    def convolution(self, x):
        weights = self.constant(self._doubled(CHANNELS, 3, 3, 3)), self.constant(self._doubled(CHANNELS))
        return self.node("Conv", x, *weights, pads=[1] * 4, name="producer")

    def normalised(self, x):
        """Conv and BatchNormalization: the filters triple, γ makes two thirds of that."""
        value = self._doubled(CHANNELS, 3, 3, 3)
        value[GONE] *= 1.5
        gamma, beta, mean, variance = self.rng.uniform(0.5, 1.5, (4, CHANNELS))
        mean[GONE], variance[GONE] = 3 * mean[KEPT], variance[KEPT]
        gamma[GONE], beta[GONE] = gamma[KEPT] * 2 / 3, 2 * beta[KEPT]
        hidden = self.node("Conv", x, self.constant(value), pads=[1] * 4, name="producer")
        return self.node("BatchNormalization", hidden, *(self.constant(part) for part in (gamma, beta, mean, variance)))

    def dense(self, x):
        flat = self.node("Flatten", x)
        weights = self.constant(self._doubled(CHANNELS, 54)), self.constant(self._doubled(CHANNELS))
        return self.node("Gemm", flat, *weights, transB=1, name="producer")

    def dense_by_matmul(self, x):
        flat = self.node("Flatten", x)
        product = self.node("MatMul", flat, self.constant(self._doubled(CHANNELS, 54).T), name="producer")
        return self.node("Add", product, self.constant(self._doubled(CHANNELS)))


PRODUCERS = {"BN": Doubling.normalised, "folded": Doubling.convolution}
DENSE_PRODUCERS = {"Gemm": Doubling.dense, "MatMul": Doubling.dense_by_matmul}


def analysed(proto):
    model = load(proto)
    return analyse(model, probe(model))


def restored(analysis, method, options=NO_PENALTY, gone=GONE):
    """The model without the units `gone` of the producer's group, and what became of the producer's group."""
    kept = np.ones(analysis.classes.count, bool)
    choices = []
    for group in analysis.groups:
        removed = np.zeros(group.units, bool)
        if group.name == "producer":
            removed[gone] = True
        kept[group.classes[removed]] = False
        choices.append(Choice(group, removed, None))
    assert not kept.all()
    task = RestoreTask(analysis, Plan(tuple(choices), kept), options, RunOptions("cpu"))
    result = RESTORATIONS[method].restore(task)
    outcome = next(o for o, choice in zip(result.outcomes, choices, strict=True) if choice.removed.any())
    return result.model, outcome


def relative_error(original, changed):
    inputs = synthetic_inputs(original, 2, SampleOptions(seed=1))
    pairs = zip(*(run(open_session(model), inputs) for model in (original, changed)), strict=True)
    return max(np.abs(left - right).max() / np.abs(left).max() for left, right in pairs)


def assert_exact(proto):
    """Every method gives the original back; without one, the removed channels are missed."""
    onnx.checker.check_model(proto)
    analysis = analysed(proto)
    for method in METHODS:
        model, outcome = restored(analysis, method)
        assert outcome.restored == method and outcome.note is None and outcome.error < 1e-12
        assert relative_error(analysis.model, model) < 1e-5
    plain, _ = restored(analysis, "none")
    assert relative_error(analysis.model, plain) > 1e-2


def pooled(graph, x):
    """(N, 6, 6, 3) to (N, 6, 3, 2)."""
    return graph.node("MaxPool", graph.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 1])


def flattened(graph, x):
    return graph.node("Flatten", pooled(graph, x))


def channels_last(graph, x):
    return graph.node("Flatten", graph.node("Transpose", pooled(graph, x), perm=[0, 2, 3, 1]))


def reshaped(graph, x):
    return graph.node("Reshape", pooled(graph, x), graph.constant([0, -1]))


def gemm(graph, x):
    """Gemm that transposes its weight."""
    return graph.gemm(x, 36, 4)


def plain_gemm(graph, x):
    return graph.node("Gemm", x, graph.weight(36, 4), graph.weight(4), alpha=0.5)


def matmul(graph, x):
    return graph.node("Add", graph.matmul(x, 36, 4), graph.weight(4))


@pytest.mark.parametrize("consume", [gemm, plain_gemm, matmul], ids=lambda consume: consume.__name__)
@pytest.mark.parametrize("flatten", [flattened, channels_last, reshaped], ids=lambda flatten: flatten.__name__)
@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_through_pooling_and_flatten(produce, flatten, consume):
    graph = Doubling()
    assert_exact(graph.model(consume(graph, flatten(graph, produce(graph, graph.input())))))


def conv(graph, x):
    return graph.conv(x, CHANNELS, 4)


def transposed_conv(graph, x):
    return graph.node("ConvTranspose", x, graph.weight(CHANNELS, 4, 3, 3), graph.weight(4))


def averaged(graph, x):
    return graph.gemm(graph.node("Flatten", graph.node("GlobalAveragePool", x)), CHANNELS, 4)


def depthwise_later(graph, x):
    return graph.conv(conv(graph, x), 4, 4, group=4)


@pytest.mark.parametrize(
    "consume", [conv, transposed_conv, averaged, depthwise_later], ids=lambda consume: consume.__name__
)
@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_convolutions_and_pooling(produce, consume):
    graph = Doubling()
    assert_exact(graph.model(consume(graph, graph.node("Relu", produce(graph, graph.input())))))


@pytest.mark.parametrize("produce", DENSE_PRODUCERS.values(), ids=DENSE_PRODUCERS)
def test_fully_connected_layers(produce):
    graph = Doubling()
    hidden = graph.node("Relu", produce(graph, graph.input()))
    assert_exact(graph.model(graph.gemm(hidden, CHANNELS, 4)))


@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_several_consumers(produce):
    graph = Doubling()
    hidden = graph.node("Relu", produce(graph, graph.input()))
    head = graph.gemm(graph.node("Flatten", hidden), CHANNELS * 18, 5)
    assert_exact(graph.model(graph.conv(hidden, CHANNELS, 4), head, transposed_conv(graph, hidden)))


def test_a_unit_with_two_channels_of_one_consumer():
    """Channels side by side with their own activations: n-th channels stand in for n-th channels."""
    graph = Doubling()
    hidden = graph.convolution(graph.input())
    both = graph.node("Concat", graph.node("Relu", hidden), graph.node("LeakyRelu", hidden), axis=1)
    assert_exact(graph.model(graph.conv(both, 2 * CHANNELS, 4)))


def test_a_consumer_of_several_groups():
    graph = Doubling()
    x = graph.input()
    parts = [graph.conv(x, 3, 5, name="before"), graph.convolution(x), graph.conv(x, 3, 2, name="after")]
    hidden = graph.node("Relu", graph.node("Concat", *parts, axis=1))
    assert_exact(graph.model(graph.conv(hidden, CHANNELS + 7, 4)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_keep_their_type(dtype):
    """Those of one type throughout, and those that a Cast widens for a graph of another type."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = Doubling(dtype)
    hidden = graph.node("Relu", graph.dense(graph.input(kind=kind)))
    throughout = graph.model(graph.gemm(hidden, CHANNELS, 4))
    graph = Doubling()
    hidden = graph.node("Relu", graph.convolution(graph.input()))
    stored = graph.constant(graph.rng.standard_normal((4, CHANNELS, 3, 3)), dtype, "stored")
    behind = graph.model(graph.node("Conv", hidden, graph.node("Cast", stored, to=TensorProto.FLOAT)))
    for proto, names in ((throughout, None), (behind, ["stored"])):
        analysis = analysed(proto)
        model, outcome = restored(analysis, "lbyl")
        assert outcome.restored == "lbyl" and outcome.note is None
        assert {model.weights[name].dtype for name in names or model.weights} == {np.dtype(dtype)}
        assert relative_error(analysis.model, model) < (2e-2 if dtype == np.float16 else 1e-5)


def test_the_analysed_model_is_left_alone():
    graph = Doubling()
    analysis = analysed(graph.model(conv(graph, graph.node("Relu", graph.convolution(graph.input())))))
    before = analysis.model.to_proto().SerializeToString(deterministic=True)
    restored(analysis, "lbyl")
    assert analysis.model.to_proto().SerializeToString(deterministic=True) == before


def parts(graph, x, op="Split"):
    """Channels 0 to 2 and 3 to 5 apart."""
    if op == "Split":
        return graph.nodes("Split", [x, graph.constant([3, 3])], 2, axis=1)
    ends = [(graph.constant([start]), graph.constant([start + 3])) for start in (0, 3)]
    return [graph.node("Slice", x, *range_, graph.constant([1])) for range_ in ends]


@pytest.mark.parametrize("op", ["Split", "Slice"])
def test_consumers_of_a_part_of_the_channels(op):
    """No consumer has both removed channels and those that stand in for them."""
    graph = Doubling()
    left, right = parts(graph, graph.node("Relu", graph.convolution(graph.input())), op)
    proto = graph.model(graph.conv(left, 3, 4, name="first"), graph.conv(right, 3, 4, name="second"))
    reasons = [f"Conv '{name}' does not take all of these channels alike" for name in ("first", "second")]
    assert_unrestored(proto, "; ".join(reasons))


def test_channels_of_which_some_come_twice():
    graph = Doubling()
    hidden = graph.node("Relu", graph.convolution(graph.input()))
    again = graph.node("Concat", hidden, parts(graph, hidden)[0], axis=1)
    proto = graph.model(graph.conv(again, 9, 4, name="consumer"))
    assert_unrestored(proto, "Conv 'consumer' does not take all of these channels alike")


def test_the_error_is_what_the_kept_filters_leave():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, CHANNELS, name="producer"))
    analysis = analysed(graph.model(conv(graph, hidden)))
    errors = [restored(analysis, "lbyl", PruneOptions(lambda1=1, lambda2=penalty))[1].error for penalty in (0, 1, 1e9)]
    assert 0 < errors[0] < errors[1] < errors[2] == pytest.approx(1)


# ---- where weights alone cannot make up for a channel


def between(middle, consume=conv):
    graph = Doubling()
    return graph.model(consume(graph, middle(graph, graph.node("Relu", graph.convolution(graph.input())))))


def depthwise(graph, x):
    return graph.conv(x, CHANNELS, CHANNELS, group=CHANNELS)


def later_batch_norm(graph, x):
    return graph.batch_norm(x, CHANNELS)


def slopes(graph, x):
    return graph.node("PRelu", x, graph.constant(graph.rng.uniform(0.1, 0.9, (CHANNELS, 1, 1))))


def shared_weight(graph, x):
    weight = graph.weight(4, CHANNELS, 3, 3)
    twice = [graph.node("Conv", graph.node(op, x), weight, name=op) for op in ("Relu", "Neg")]
    return graph.node("Add", *twice)


def computed_weight(graph, x):
    return graph.node("Conv", x, graph.node("Neg", graph.weight(4, CHANNELS, 3, 3)), name="consumer")


@pytest.mark.parametrize("middle", [depthwise, later_batch_norm, slopes], ids=lambda middle: middle.__name__)
def test_a_constant_for_each_channel_in_between(middle):
    assert_unrestored(between(middle), r"constant '\w+' acts on single channels between producer and consumer")


def assert_unrestored(proto, reason, gone=GONE):
    """What is emitted has the weights that no restoration leaves, and the report says why."""
    analysis = analysed(proto)
    plain, _ = restored(analysis, "none", gone=gone)
    for method in METHODS:
        model, outcome = restored(analysis, method, gone=gone)
        assert outcome.restored is None and outcome.error is None
        assert plain.weights.keys() == model.weights.keys()
        np.testing.assert_equal(model.weights, plain.weights)
        assert re.fullmatch(reason, outcome.note or ""), outcome.note


@pytest.mark.parametrize(
    ("consume", "reason"),
    [
        (shared_weight, "the weight of 'Relu' is computed or shared; the weight of 'Neg' is computed or shared"),
        (computed_weight, "the weight of 'consumer' is computed or shared"),
    ],
    ids=["shared", "computed"],
)
def test_a_weight_that_cannot_be_changed(consume, reason):
    assert_unrestored(between(lambda graph, x: x, consume), reason)


def test_a_unit_of_several_filters():
    def grouped(graph, x):
        return graph.conv(x, CHANNELS, 4, group=2)

    assert_unrestored(between(lambda graph, x: x, grouped), "a unit has several filters", gone=[1])


def test_a_grouped_consumer():
    graph = Builder()
    weight = graph.weight(12, 6, 1, 1)
    hidden = graph.node("ConvTranspose", graph.input(("N", 12, 6, 3)), weight, group=2, name="producer")
    proto = graph.model(graph.conv(graph.node("Relu", hidden), 12, 4, group=2, name="consumer"))
    assert_unrestored(proto, "Conv 'consumer' is grouped", gone=[1, 4])


def test_one_of_two_consumers():
    graph = Doubling()
    hidden = graph.node("Relu", graph.convolution(graph.input()))
    analysis = analysed(graph.model(conv(graph, hidden), computed_weight(graph, hidden)))
    model, outcome = restored(analysis, "lbyl")
    plain, _ = restored(analysis, "none")
    assert outcome.restored == "lbyl" and outcome.error < 1e-12
    assert outcome.note == "the weight of 'consumer' is computed or shared"
    changed = [name for name in plain.weights if (model.weights[name] != plain.weights[name]).any()]
    assert changed == [analysis.groups[0].consumers[0].weight.name]


def test_several_producers():
    graph = Doubling()
    hidden = graph.convolution(graph.input())
    joined = graph.node("Add", hidden, graph.conv(graph.node("Relu", hidden), CHANNELS, CHANNELS))
    assert_unrestored(graph.model(conv(graph, joined)), "several producers make these channels")


# ---- arithmetic


def test_mixing_adds_shares_to_the_weights_of_kept_channels():
    graph = Builder()
    proto = graph.model(graph.matmul(graph.input(("N", 8)), 8, 3, name="consumer"))
    model = load(proto)
    (name,) = model.weights
    value = np.arange(24, dtype=np.float32).reshape(8, 3)
    model.replace(name, value)
    weight = Constant(name, value.dtype, exclusive=True)
    consumer = WeightAxis(0, 1, "consumer", "MatMul", weight, 0, np.array([2, 0, -1, 1, 2, -1, 0, 1]), 1)
    mix_into(model, consumer, np.array([False, True, False]), np.array([[10.0, 100.0]]))
    found = model.weights[name]
    np.testing.assert_array_equal(found[[2, 5]], value[[2, 5]])
    np.testing.assert_array_equal(found[[1, 6]], value[[1, 6]] + 10 * value[[3, 7]])
    np.testing.assert_array_equal(found[[0, 4]], value[[0, 4]] + 100 * value[[3, 7]])
    assert found.dtype == np.float32
