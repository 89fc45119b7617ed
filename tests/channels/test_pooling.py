"""Where a mean over all positions comes from, and what measuring there is good for."""

import numpy as np
import onnx
import pytest
from graphs import Builder
from uniform import compress

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.pooling import before_pooling
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.graph import GraphIndex
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.restoration import from_activations
from lbyl_onnx.selection import consumer_moments, elimination

SPACE = (6, 4)
CHANNELS = 8


def globally(graph, hidden):
    return graph.node("GlobalAveragePool", hidden)


def flatten(graph, hidden):
    return graph.node("Flatten", hidden)


def mean(graph, hidden, *axes, keep=0):
    return graph.node("ReduceMean", hidden, axes=axes, keepdims=keep)


def pool(graph, hidden, kernel=SPACE, op="AveragePool", **attributes):
    return graph.node(op, hidden, kernel_shape=kernel, **attributes)


def channels_last(graph, hidden):
    return graph.node("Transpose", hidden, perm=[0, 2, 3, 1])


def found(middle, opset=17, batch="N"):
    """The model Conv "producer" → Relu → `middle` → Gemm, its input's name, and what lies before its pooling."""
    graph = Builder(opset)
    hidden = graph.node("Relu", graph.conv(graph.input((batch, 3, *SPACE)), 3, CHANNELS, name="producer"))
    flat = middle(graph, hidden)
    features = 2 * CHANNELS if middle in WIDER else CHANNELS
    model = load(graph.model(graph.gemm(flat, features, 4, name="head")))
    return model, flat, before_pooling(analyse(model, probe(model)), GraphIndex(model), flat, 1)


def values(model, *names):
    """Of tensors, on one batch of normal inputs."""
    exposed = model.copy()
    exposed.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    x = np.random.default_rng(0).standard_normal((2, 3, *SPACE)).astype(np.float32)
    return run(open_session(exposed), {"x": x}, list(names))


MEANS = {
    "pool and flatten": lambda g, h: flatten(g, globally(g, h)),
    "pool and reshape": lambda g, h: g.node("Reshape", globally(g, h), g.constant([0, -1])),
    "pool and reshape to a number": lambda g, h: g.node("Reshape", globally(g, h), g.constant([-1, CHANNELS])),
    "pool and squeeze": lambda g, h: g.node("Squeeze", globally(g, h), g.constant([2, 3])),
    "pool, identity, dropout and flatten": lambda g, h: flatten(
        g, g.node("Dropout", g.node("Identity", globally(g, h)))
    ),
    "pool, transpose and flatten": lambda g, h: flatten(g, channels_last(g, globally(g, h))),
    "pool, squeeze, unsqueeze and flatten": lambda g, h: flatten(
        g, g.node("Unsqueeze", g.node("Squeeze", globally(g, h), g.constant([2, 3])), g.constant([1]))
    ),
    "mean": lambda g, h: mean(g, h, 2, 3),
    "mean from the end": lambda g, h: mean(g, h, -1, -2),
    "mean and flatten": lambda g, h: flatten(g, mean(g, h, 2, 3, keep=1)),
    "mean of channels last": lambda g, h: mean(g, channels_last(g, h), 1, 2),
    "mean of flattened positions": lambda g, h: mean(g, g.node("Reshape", h, g.constant([0, CHANNELS, -1])), 2),
    "pool of the full size": lambda g, h: flatten(g, pool(g, h)),
    "pool of the full size with strides": lambda g, h: flatten(g, pool(g, h, strides=[2, 2], pads=[0] * 4)),
}


@pytest.mark.parametrize("middle", MEANS.values(), ids=MEANS)
def test_a_mean_over_all_positions_is_looked_behind(middle):
    model, flat, place = found(middle)
    assert place is not None
    name, axis = place
    pooled, before = values(model, flat, name)
    others = tuple(other for other in range(1, before.ndim) if other != axis)
    assert before.shape[axis] == CHANNELS and before.size == CHANNELS * 2 * np.prod(SPACE)
    np.testing.assert_allclose(before.mean(axis=others), pooled, rtol=1e-4, atol=1e-5)


def test_axes_that_are_an_input():
    """As opset 18 has them."""

    def middle(graph, hidden):
        return graph.node("ReduceMean", hidden, graph.constant([2, 3]), keepdims=0)

    assert found(middle, opset=18)[2] is not None


def test_a_fixed_batch():
    assert found(MEANS["pool and flatten"], batch=2)[2] is not None


def test_a_mean_over_one_position():
    """Whatever is in front of it holds the same values."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 1, 1)), 3, CHANNELS, name="producer"))
    flat = flatten(graph, globally(graph, hidden))
    model = load(graph.model(graph.gemm(flat, CHANNELS, 4)))
    assert before_pooling(analyse(model, probe(model)), GraphIndex(model), flat, 1) == (hidden, 1)


def test_a_mean_over_a_sequence():
    graph = Builder()
    hidden = graph.node("Relu", graph.matmul(graph.input(("N", 5, 6)), 6, CHANNELS, name="producer"))
    pooled = mean(graph, hidden, 1)
    model = load(graph.model(graph.gemm(pooled, CHANNELS, 4)))
    assert before_pooling(analyse(model, probe(model)), GraphIndex(model), pooled, 1) == (hidden, 2)


def halves(graph, hidden):
    return flatten(graph, pool(graph, hidden, (3, 4), strides=[3, 4]))


def rows_only(graph, hidden):
    return flatten(graph, pool(graph, mean(graph, hidden, 2, keep=1), (1, 2), "MaxPool", strides=[1, 2]))


WIDER = (halves, rows_only)
"""Two places of each channel are left."""

OTHERS = {
    "pool of a part": halves,
    "mean of one axis and maximum of pairs": rows_only,
    "pool of one place": lambda g, h: flatten(g, pool(g, h, (3, 2), strides=[9, 9])),
    "maximum": lambda g, h: flatten(g, g.node("GlobalMaxPool", h)),
    "maximum of the full size": lambda g, h: flatten(g, pool(g, h, op="MaxPool")),
    "pool of the full size with padding": lambda g, h: flatten(g, pool(g, h, pads=[1, 1, 1, 1], strides=[9, 9])),
    "pool beyond the size": lambda g, h: flatten(g, pool(g, h, (8, 6), pads=[1, 1, 1, 1], count_include_pad=1)),
    "sum": lambda g, h: g.node("ReduceSum", h, g.constant([2, 3]), keepdims=0),
    "norm": lambda g, h: g.node("ReduceL2", h, axes=[2, 3], keepdims=0),
    "mean and softmax": lambda g, h: g.node("Softmax", mean(g, h, 2, 3)),
    "mean and relu": lambda g, h: g.node("Relu", mean(g, h, 2, 3)),
    "mean and scale": lambda g, h: g.node("Mul", mean(g, h, 2, 3), g.constant(2.0)),
    "one position": lambda g, h: g.node("Gather", flatten3(g, h), g.constant(3), axis=2),
}


def flatten3(graph, hidden):
    return graph.node("Reshape", hidden, graph.constant([0, CHANNELS, -1]))


@pytest.mark.parametrize("middle", OTHERS.values(), ids=OTHERS)
def test_what_is_no_mean_over_all_positions_is_not(middle):
    assert found(middle)[2] is None


def test_a_mean_over_samples_too_is_none():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input((2, 3, *SPACE)), 3, CHANNELS, name="producer"))
    pooled = graph.node("Unsqueeze", mean(graph, hidden, 0, 2, 3), graph.constant([0]))
    model = load(graph.model(graph.gemm(pooled, CHANNELS, 4)))
    assert before_pooling(analyse(model, probe(model)), GraphIndex(model), pooled, 1) is None


def test_there_is_nothing_before_an_input():
    graph = Builder()
    model = load(graph.model(graph.gemm(graph.input(("N", CHANNELS)), CHANNELS, 4)))
    assert before_pooling(analyse(model, probe(model)), GraphIndex(model), "x", 1) is None


# ---- what it is good for


def network(seed):
    """A convolutional network with far more units in front of its head than there are samples below."""
    graph = Builder(seed=seed)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 32, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 32, 128, name="last"))
    return graph.model(graph.gemm(flatten(graph, globally(graph, hidden)), 128, 10, name="head"))


def images(count, seed):
    """Nine patches of one colour each."""
    patches = np.random.default_rng(seed).standard_normal((count, 3, 3, 3))
    return np.kron(patches, np.ones((4, 4))).astype(np.float32)


@pytest.mark.parametrize("guard", [elimination.TRUSTING, elimination.MADE_UP], ids=["trusting", "wary"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_measured_before_the_pooling_holds_better_on_other_samples(seed, guard, monkeypatch):
    """Whatever guards the choice, as long as it is the same on either side of the pooling."""
    monkeypatch.setattr(elimination, "_guard", lambda *_: guard)
    proto, given, others = network(seed), {"x": images(16, seed)}, {"x": images(300, seed + 100)}

    def left():
        """The share of the outputs' variance that is lost on samples that were not measured on."""
        result = compress(proto, 0.5, include="^last$", calibration=given, validation=False).model
        before, after = (run(open_session(load(model)), others)[0] for model in (proto, result))
        return ((before - after) ** 2).sum() / ((before - before.mean(axis=0)) ** 2).sum()

    in_front = left()
    for module in (consumer_moments, from_activations):
        monkeypatch.setattr(module, "before_pooling", lambda *_: None)
    assert in_front < 0.8 * left()


@pytest.mark.parametrize(("count", "looks"), [(20, True), (700, False)])
@pytest.mark.parametrize("part", ["criterion", "restore"])
def test_both_the_choice_and_the_fit_look_in_front_where_rows_are_few(part, count, looks, monkeypatch):
    """One of the two alone calls for it where the other measures nothing; the last layer has 128 units."""
    seen = []

    def watched(*arguments):
        place = before_pooling(*arguments)
        seen.append(place)
        return place

    module = {"criterion": consumer_moments, "restore": from_activations}[part]
    monkeypatch.setattr(module, "before_pooling", watched)
    other = {"criterion": {"restore": "none"}, "restore": {"criterion": "l2"}}[part]
    compress(network(0), 0.5, include="^last$", calibration={"x": images(count, 0)}, validation=False, **other)
    assert any(place is not None for place in seen) == looks


def test_two_heads_behind_one_pooling_are_both_fitted():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 16, name="last"))
    flat = flatten(graph, globally(graph, hidden))
    heads = [graph.gemm(flat, 16, outputs, name=f"head{outputs}") for outputs in (3, 5)]
    result = compress(graph.model(*heads), 0.5, calibration={"x": images(40, 0)}, validation=False)
    (group,) = [each for each in result.report.groups if each.units_after < each.units_before]
    assert group.outcome.restored == "moments" and group.outcome.note is None
    assert set(group.consumers) == {"head3", "head5"}
