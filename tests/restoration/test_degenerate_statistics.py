"""Restoration from activations that are dead, constant, few or not finite."""

import numpy as np
import pytest
from graphs import Builder
from restoring import assert_finite, assert_restores, block, compressed, group_of, made_up, normal, outputs, sqnr

from lbyl_onnx.model.reading import load


def changed(proto, **changes):
    """The model with weights of its node "producer" changed: functions of the weight and the bias."""
    model = load(proto)
    node = next(node for node in model.proto.graph.node if node.name == "producer")
    for slot, part in ((1, "weight"), (2, "bias")):
        if part in changes:
            value = model.weights[node.input[slot]].copy()
            changes[part](value)
            model.replace(node.input[slot], value)
    return model.to_proto()


def filled(channels, value):
    def fill(weight):
        weight[channels] = value

    return fill


DEAD, CONSTANT, TINY = slice(0, 3), slice(3, 6), slice(6, 8)


def shrunk(value):
    value[TINY] *= 1e-12


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("data", ["auto", "given"])
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_dead_constant_and_tiny_channels(ratio, data, normalise):
    """Channels that never fire, that never change, and whose variance is below rounding."""

    def degenerate(weight):
        weight[:6] = 0
        shrunk(weight)

    def biased(bias):
        bias[DEAD], bias[CONSTANT], bias[TINY] = -5, 3, 0

    follow = (
        (lambda graph, x: graph.node("Relu", graph.batch_norm(x, 12)))
        if normalise
        else (lambda graph, x: graph.node("Relu", x))
    )
    proto = changed(block(Builder(seed=2), follow), weight=degenerate, bias=biased)
    calibration = "auto" if data == "auto" else made_up(load(proto), 64, seed=9)
    model, ours, report = assert_restores(proto, ratio, better=False, calibration=calibration)
    largest = max(np.abs(value).max() for value in model.weights.values())
    assert max(np.abs(value).max() for value in ours.weights.values()) < 20 * largest
    if ratio == 0.25 and not normalise:
        assert group_of(report, "producer").predicted_error < 2e-3
        assert min(sqnr(model, ours, made_up(model, 16, seed=4))) > 50


def test_a_network_that_is_dead_altogether():
    proto = changed(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x)), bias=filled(slice(None), -1e3))
    model, ours, _ = assert_restores(proto, better=False)
    assert min(sqnr(model, ours, made_up(model, 4, seed=4))) > 80


def test_constant_samples():
    """All samples alike: no variance anywhere but in space."""
    model = load(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x)))
    for value in (0.0, 1.0):
        ours, _ = compressed(model, 0.5, calibration={"x": np.full((8, 3, 10, 10), value, np.float32)})
        assert_finite(ours)
        assert np.isfinite(outputs(ours, normal(model, 4))[0]).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_few_samples(samples):
    model = load(block(Builder(seed=2), lambda graph, x: graph.node("Relu", graph.batch_norm(x, 12))))
    for calibration in ("auto", normal(model, samples)):
        ours, _ = compressed(model, 0.5, calibration=calibration, samples=samples)
        assert_finite(ours)
        assert min(sqnr(model, ours, made_up(model, 16, seed=3))) > -10


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scope", ["chains", "all"])
def test_activations_that_are_not_finite_leave_their_layers_alone(scope):
    """The logarithm of synthetic values is nan for half of them."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.gemm(graph.node("Log", graph.input(("N", 6))), 6, 8, name="first"))
    proto = graph.model(graph.batch_norm(graph.gemm(hidden, 8, 3, name="last"), 3))
    model = load(proto)
    ours, report = compressed(model, 0.5, scope=scope)
    assert_finite(ours)
    group = group_of(report, "first")
    assert group.units_after == 4 and group.outcome.error is None
    positive = {"x": np.random.default_rng(0).uniform(0.5, 2, (64, 6)).astype(np.float32)}
    ours, report = compressed(model, 0.5, scope=scope, calibration=positive)
    assert group_of(report, "first").outcome.error is not None
