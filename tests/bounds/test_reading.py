"""Models read as stretches: what is covered, what lies between layers, and that bounds hold for whole networks."""

import numpy as np
import onnx
import pytest
from certificate_draws import most_failures
from conftest import ROOT, shared
from graphs import Builder
from pruned_draws import PrunedNetwork, fashion

from lbyl_onnx import load
from lbyl_onnx.bounds import (
    UNITS,
    WEIGHTS,
    NotCovered,
    as_chosen,
    at_random,
    read_stretch,
    removed_of,
    without_smallest_units,
    without_smallest_weights,
)
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import RunOptions

CPU = RunOptions("cpu")
CNN = ROOT / "models" / "digits_cnn.onnx"
DRAWS = 1000


def digits(count: int = 60) -> dict[str, np.ndarray]:
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return {"image": data["image"][:count]}


def read(proto: onnx.ModelProto, shape=(3, 6, 6), samples: int = 8):
    data = np.random.default_rng(1).standard_normal((samples, *shape)).astype(np.float32)
    return read_stretch(load(proto), {"x": data}, CPU)


def test_a_network_is_read_layer_by_layer():
    stretch = read_stretch(load(CNN), digits(), CPU)
    assert [layer.population(UNITS) for layer in stretch.layers] == [0, 32, 64, 64, 64]
    assert [layer.lipschitz for layer in stretch.layers] == [1.0] * 5 and stretch.tail == 1.0
    assert stretch.layers[3].producer == "/layer3/conv/Conv" and stretch.samples == 60
    assert (stretch.layers[3].linear.units == np.repeat(np.arange(64), 16)).all()


def test_batch_normalisation_is_part_of_its_convolution():
    kept, folded = (
        read_stretch(load(ROOT / "models" / name), digits(), CPU) for name in (CNN.name, "digits_cnn_folded.onnx")
    )
    for one, other in zip(kept.layers, folded.layers, strict=True):
        np.testing.assert_allclose(one.linear.weight, other.linear.weight, atol=1e-4)
        assert one.effect == pytest.approx(other.effect, rel=1e-4)


def test_moments_are_those_of_what_layers_read():
    stretch = read_stretch(load(CNN), digits(), CPU)
    for layer in stretch.layers[3:]:
        weight = layer.linear.weight
        assert layer.effect == pytest.approx(float(((weight @ layer.second) * weight).sum()), rel=1e-4)
        assert layer.energies == pytest.approx(np.diag(layer.second))
    for layer in stretch.layers:
        assert layer.effect <= layer.linear.norm**2 * layer.energies.sum()


MIDDLES = {
    "MaxPool": lambda g, x: g.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1]),
    "strided MaxPool": lambda g, x: g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool": lambda g, x: g.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "padded AveragePool": lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    "GlobalAveragePool": lambda g, x: g.node("GlobalAveragePool", x),
    "LeakyRelu": lambda g, x: g.node("LeakyRelu", x, alpha=3.0),
    "Sigmoid": lambda g, x: g.node("Sigmoid", x),
    "HardSwish": lambda g, x: g.node("HardSwish", x),
    "PRelu": lambda g, x: g.node("PRelu", x, g.constant(np.full((8, 1, 1), 2.0))),
    "Mul": lambda g, x: g.node("Mul", x, g.constant(np.linspace(-3, 2, 8).reshape(8, 1, 1))),
    "Div": lambda g, x: g.node("Div", x, g.constant(np.linspace(0.5, 2, 8).reshape(8, 1, 1))),
    "BatchNormalization": lambda g, x: g.batch_norm(g.node("Relu", x), 8),
    "depthwise Conv": lambda g, x: g.conv(g.node("Relu", x), 8, 8, group=8),
}


def alone(middle) -> onnx.ModelProto:
    """The operator between two convolutions that change nothing."""
    graph = Builder()
    same = np.eye(8)[:, :, None, None]
    hidden = graph.node("Conv", graph.input(("N", 8, 6, 6)), graph.constant(same), name="producer")
    return graph.model(graph.node("Conv", middle(graph, hidden), graph.constant(same), name="consumer"))


@pytest.mark.parametrize("name", MIDDLES)
def test_what_lies_between_moves_no_more_than_its_constant(name):
    """Pairs of inputs near each other and far apart, everywhere and at few places."""
    proto = alone(MIDDLES[name])
    constant = read(proto, (8, 6, 6)).layers[1].lipschitz
    session, rng = open_session(load(proto)), np.random.default_rng(2)
    largest = 0.0
    for scale in (1e-2, 1.0, 30.0):
        one = rng.standard_normal((200, 8, 6, 6)).astype(np.float32) * rng.choice([0.1, 1, 4], (200, 1, 1, 1))
        other = one + scale * rng.standard_normal(one.shape) * (rng.random(one.shape) < rng.random((200, 1, 1, 1)))
        one, other = one.astype(np.float32), other.astype(np.float32)
        results = [run(session, {"x": value})[0].astype(float) for value in (one, other)]
        moved, apart = (np.linalg.norm((b - a).reshape(200, -1), axis=1) for a, b in (results, (one, other)))
        largest = max(largest, float((moved[apart > 0] / apart[apart > 0]).max()))
    assert 0 < largest <= constant * (1 + 1e-3)


def refusals():
    residual = Builder()
    hidden = residual.conv(residual.input(("N", 3, 6, 6)), 3, 3)
    yield "more than one node", residual.model(residual.node("Add", hidden, residual.node("Relu", hidden)))
    grouped = Builder()
    yield (
        "grouped convolution",
        grouped.model(grouped.conv(grouped.conv(grouped.input(("N", 3, 6, 6)), 3, 4), 4, 4, group=2)),
    )
    unknown = Builder()
    hidden = unknown.node("Exp", unknown.conv(unknown.input(("N", 3, 6, 6)), 3, 4))
    yield "is a Exp, for which no bound", unknown.model(unknown.conv(hidden, 4, 2))
    mixing = Builder()
    hidden = mixing.node("Softmax", mixing.conv(mixing.input(("N", 3, 6, 6)), 3, 4), axis=1)
    yield "depend on one another", mixing.model(mixing.conv(hidden, 4, 2))
    rows = Builder()
    hidden = rows.node("Reshape", rows.conv(rows.input(("N", 3, 6, 6)), 3, 4), rows.constant(np.array([-1, 4])))
    yield "or samples", rows.model(rows.gemm(hidden, 4, 2))
    none = Builder()
    yield "no layer", none.model(none.node("Relu", none.input(("N", 3, 6, 6))))


@pytest.mark.parametrize(
    ("reason", "proto"), list(refusals()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_other_models_are_not_covered(reason, proto):
    with pytest.raises(NotCovered, match=reason):
        read(proto)


def test_a_softmax_at_the_end_is_covered():
    graph = Builder()
    hidden = graph.gemm(graph.node("Flatten", graph.input(("N", 3, 6, 6))), 108, 5)
    assert read(graph.model(graph.node("Softmax", hidden))).tail == 1.0


@pytest.mark.parametrize(
    ("network", "what", "share"), [("lenet", UNITS, 0.3), ("lenet", WEIGHTS, 0.01), ("cnn", UNITS, 0.3)]
)
def test_gaps_of_random_prunings_exceed_their_bound_no_more_than_they_may(network, what, share):
    model, inputs = (load(CNN), digits(40)) if network == "cnn" else fashion(shared, 40)
    stretch = read_stretch(model, inputs, CPU)
    removed = removed_of(stretch, share, what)
    gaps = PrunedNetwork(model, inputs, stretch).gaps(removed, what, DRAWS)
    bound = at_random(stretch, removed, what)
    for delta in (0.5, 0.1, 0.01):
        assert (gaps > bound.gap(delta)).sum() <= most_failures(DRAWS, delta)
    assert 0 < np.sqrt((gaps**2).mean()) <= bound.root


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_pruning_by_magnitude_stays_below_its_bound(share):
    model, inputs = fashion(shared, 100)
    stretch = read_stretch(model, inputs, CPU)
    pruned = PrunedNetwork(model, inputs, stretch)
    for weights in (
        without_smallest_units(stretch, removed_of(stretch, share)),
        without_smallest_weights(stretch, removed_of(stretch, share, WEIGHTS)),
    ):
        assert 0 < pruned.gap(weights) <= as_chosen(stretch, weights).root
