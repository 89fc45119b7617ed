"""Restoration from activation moments: what is redundant comes back whole, and what is lost comes back in part."""

import numpy as np
import pytest
from graphs import Builder
from restoring import assert_restores, block, compressed, group_of, made_up, normal, settled, sqnr

from lbyl_onnx.calibration import ridge_regression
from lbyl_onnx.model.reading import load
from lbyl_onnx.selection import elimination
from lbyl_onnx.selection.elimination import TRUSTING, Guard

REMOVED, KEPT = 4, 8
DOUBLED = [0, 2, 5, 7]
FACTORS = np.array([0.5, 2.0, 1.0, 0.7])


def redundant(kind):
    """Twelve channels of which four follow from the others: sums of them ("linear"), or multiples before a Relu, with
    a bias ("relu") or BatchNormalization ("bn")."""
    graph = Builder(seed=3)
    hidden = graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, bias=kind != "bn", name="producer")
    hidden = graph.batch_norm(hidden, 12) if kind == "bn" else hidden
    hidden = hidden if kind == "linear" else graph.node("Relu", hidden)
    hidden = graph.node("Relu", graph.conv(hidden, 12, 6, name="consumer"))
    flat = graph.node("Flatten", graph.node("GlobalAveragePool", hidden))
    model = load(graph.model(graph.gemm(flat, 6, 4)))
    mixing = np.zeros((REMOVED, KEPT))
    mixing[np.arange(REMOVED), DOUBLED] = FACTORS
    if kind == "linear":
        mixing = graph.rng.standard_normal(mixing.shape) / 3
    producer, follower = model.proto.graph.node[:2]
    for name in producer.input[1:]:
        value = model.weights[name].copy()
        value[KEPT:] = np.tensordot(mixing, value[:KEPT], 1)
        model.replace(name, value)
    if kind == "bn":
        for slot, change in {3: lambda v: v * FACTORS, 4: lambda v: (v + 1e-5) * FACTORS**2 - 1e-5}.items():
            value = model.weights[follower.input[slot]].copy()
            value[KEPT:] = change(value[DOUBLED])
            model.replace(follower.input[slot], value)
        for slot in (1, 2):
            value = model.weights[follower.input[slot]].copy()
            value[KEPT:] = value[DOUBLED]
            model.replace(follower.input[slot], value)
    return model


def guarded_by(monkeypatch, guard):
    monkeypatch.setattr(elimination, "_guard", lambda *_: guard)


@pytest.mark.parametrize("data", ["auto", "given"])
@pytest.mark.parametrize("kind", ["linear", "relu", "bn"])
def test_redundant_channels_go_and_come_back(kind, data, monkeypatch):
    """On any data, foreign to the samples, where these are trusted; to float precision but for the ridges, which hide
    what a channel that hardly varies adds and pull towards the present weights."""
    guarded_by(monkeypatch, TRUSTING)
    model = redundant(kind)
    calibration = "auto" if data == "auto" else normal(model, 64, seed=1)
    options = {"include": "producer", "calibration": calibration, "samples": 64}
    foreign = normal(model, 16, seed=2)
    ours, report = compressed(model, REMOVED / 12, **options)
    group = group_of(report, "producer")
    assert group.units_after == KEPT and group.predicted_error < 2e-3 and group.outcome.error < 2e-3
    assert min(sqnr(model, ours, foreign)) > 40
    monkeypatch.setattr(ridge_regression, "STRENGTHS", (1e-9, 1e-8, 1e-7))
    guarded_by(monkeypatch, Guard(1e-5, 0.0))
    exact, report = compressed(model, REMOVED / 12, **options)
    assert group_of(report, "producer").outcome.error < 2e-6
    assert min(sqnr(model, exact, foreign)) > 90
    plain, _ = compressed(model, REMOVED / 12, **options, restore="none")
    assert min(sqnr(model, plain, foreign)) < 35


@pytest.mark.parametrize("data", ["auto", "given"])
def test_redundant_channels_that_are_not_quiet_go_by_default(data):
    """Sums of others are as loud as these."""
    model = redundant("linear")
    calibration = "auto" if data == "auto" else normal(model, 64, seed=1)
    ours, report = compressed(model, REMOVED / 12, include="producer", calibration=calibration, samples=64)
    group = group_of(report, "producer")
    assert group.units_after == KEPT and group.predicted_error < 2e-3 and group.outcome.error < 2e-3
    assert min(sqnr(model, ours, normal(model, 16, seed=2))) > 40


def test_redundant_neurons():
    """Gemm, MatMul with Add, and MatMul alone, through a nonlinearity that doubles pass; every row is a sample, so that
    doubles are trusted to be some."""
    graph = Builder(seed=1)
    hidden = graph.input(("N", 10))
    for name in ("first", "second"):
        hidden = graph.node("Tanh", graph.gemm(hidden, 10, 10, name=name))
    hidden = graph.node("Add", graph.matmul(hidden, 10, 10, name="third"), graph.weight(10))
    model = load(graph.model(graph.matmul(graph.node("Tanh", hidden), 10, 3, name="last")))
    for node in model.proto.graph.node:
        if node.op_type == "Gemm":
            for name in node.input[1:]:
                value = model.weights[name].copy()
                value[[1, 8]] = value[[4, 6]] * np.array([1, -1]).reshape([2] + [1] * (value.ndim - 1))
                model.replace(name, value)
    ours, report = compressed(model, 0.2, exclude="third")
    assert [group.units_after for group in report.groups[:2]] == [8, 8]
    assert min(sqnr(model, ours, normal(model, 32, seed=5))) > 35


def test_nothing_lost_leaves_the_rest_alone():
    """On synthetic samples only layers that lost inputs are fitted; what is in front of them stays as it was."""
    model = redundant("relu")
    ours, report = compressed(model, 0.5, include="consumer")
    for node in model.proto.graph.node[:1]:
        for name in node.input[1:]:
            np.testing.assert_array_equal(ours.weights[name], model.weights[name])
    assert group_of(report, "consumer").outcome.restored == "moments"
    assert group_of(report, "producer").outcome.restored is None


@pytest.mark.parametrize(
    "follow",
    [
        lambda graph, x: graph.node("Relu", x),
        lambda graph, x: graph.node("Relu", graph.batch_norm(x, 12)),
        lambda graph, x: graph.conv(graph.node("Relu", x), 12, 12, group=12, name="depthwise"),
        lambda graph, x: graph.node("MaxPool", graph.node("Sigmoid", x), kernel_shape=[2, 2], strides=[2, 2]),
        lambda graph, x: graph.node("Mul", x, graph.node("Sigmoid", graph.node("GlobalAveragePool", x))),
    ],
    ids=["Relu", "BN", "depthwise", "pool", "gate"],
)
@pytest.mark.parametrize("data", ["auto", "given"])
def test_what_lies_between(follow, data):
    proto = settled(block(Builder(seed=2), follow))
    calibration = "auto" if data == "auto" else made_up(load(proto), 64, seed=9)
    _, _, report = assert_restores(proto, calibration=calibration)
    group = group_of(report, "producer")
    assert group.outcome.restored == "moments" and group.units_after == 6
    assert 0 < group.outcome.error < 1 and 0 < group.predicted_error < 1 and group.outcome.condition >= 1
    assert "consumer" in group.outcome.recalibrated
