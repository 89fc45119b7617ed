"""Fits of single layers: whole rows, mixed channels, and the rows that they rest on."""

import pytest
from graphs import Builder
from restoring import assert_restores, block, compressed, group_of, made_up, normal, outputs, settled, sqnr

from lbyl_onnx.model.reading import load
from lbyl_onnx.restoration import from_activations, layer_fit


def flattened():
    """A convolution in front of Flatten and Gemm, whose rows are far longer than there are samples."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    return load(graph.model(graph.gemm(graph.node("Flatten", hidden), 12 * 144, 6, name="head")))


@pytest.mark.parametrize("data", ["auto", "given"])
def test_rows_longer_than_their_number_are_mixed(data, monkeypatch):
    """Better on foreign samples than the fit of whole rows, which has far more unknowns than samples."""
    model = flattened()
    calibration = "auto" if data == "auto" else normal(model, 64, seed=1)
    foreign = made_up(model, 64, seed=9) if data == "auto" else normal(model, 64, seed=2)
    options = {"calibration": calibration, "samples": 64, "include": "producer"}
    ours, report = compressed(model, 0.5, **options)
    group = group_of(report, "producer")
    assert group.outcome.restored == "moments" and group.outcome.note is None and "head" in group.outcome.recalibrated
    plain, _ = compressed(model, 0.5, restore="none", **options)
    monkeypatch.setattr(layer_fit, "channel_features", lambda classes: None)
    whole, _ = compressed(model, 0.5, **options)
    errors = [min(sqnr(model, each, foreign)) for each in (ours, whole, plain)]
    assert errors == sorted(errors, reverse=True)


def test_long_rows_of_a_convolution_are_mixed(monkeypatch):
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    model = load(graph.model(graph.conv(hidden, 12, 6, name="consumer")))
    whole, _ = compressed(model, 0.5, include="producer")
    monkeypatch.setattr(from_activations, "MAX_INPUTS", 20)
    ours, report = compressed(model, 0.5, include="producer")
    assert group_of(report, "producer").outcome.restored == "moments"
    plain, _ = compressed(model, 0.5, include="producer", restore="none")
    inputs = made_up(model, 32, seed=9)
    errors = [min(sqnr(model, each, inputs)) for each in (whole, ours, plain)]
    assert errors[0] > errors[1] > errors[2]


def shiftless(activation, mixed):
    """An `activation` with a mean in front of a MatMul without bias; `mixed`: behind Flatten, with long rows."""
    graph = Builder(seed=1)
    if mixed:
        hidden = graph.conv(graph.input(("N", 3, 12, 12)), 3, 24, name="producer", strides=[3, 3])
        hidden, width = graph.node("Flatten", graph.node(activation, hidden)), 24 * 16
    else:
        hidden, width = graph.gemm(graph.input(("N", 16)), 16, 60, name="producer"), 60
        hidden = graph.node(activation, hidden)
    return load(graph.model(graph.matmul(hidden, width, 10)))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_without_a_place_for_a_shift_the_mean_is_fitted_too(activation, mixed, monkeypatch):
    """A factor that matches deviations would move a mean that nothing can move back."""
    if mixed:
        monkeypatch.setattr(from_activations, "MAX_INPUTS", 100)
    model = shiftless(activation, mixed)
    ours, report = compressed(model, 0.4, include="producer", calibration=normal(model, 512))
    (expected,), (found,) = (outputs(each, normal(model, 512, seed=3)) for each in (model, ours))
    assert ((found - expected) ** 2).sum() < 0.35 * ((expected - expected.mean(axis=0)) ** 2).sum()
    assert group_of(report, "producer").outcome.recalibrated == ()


@pytest.mark.parametrize("data", ["auto", "given"])
@pytest.mark.parametrize("kind", ["chain", "pyramid", "strided"])
def test_layers_of_which_some_rest_on_the_front_alone(kind, data, monkeypatch):
    """A later layer may look back at an early tensor, which one of the models has for more samples than the other."""
    monkeypatch.setattr("lbyl_onnx.calibration.samples.FRONT_ELEMENTS", 8 * 3 * 32 * 32)
    monkeypatch.setattr(from_activations, "MIN_ROWS", 8 * 32 * 32)
    monkeypatch.setattr("lbyl_onnx.calibration.samples.BATCH_ELEMENTS", 2 * 3 * 32 * 32)
    graph = Builder(seed=2)
    early = graph.node("Relu", graph.conv(graph.input(("N", 3, 32, 32)), 3, 12, name="producer"))
    if kind == "chain":
        ends = [graph.conv(graph.node("Relu", graph.conv(early, 12, 8)), 8, 6)]
    elif kind == "strided":
        ends = [graph.conv(early, 12, 6, strides=[8, 8]), graph.conv(early, 12, 6, (1, 1))]
    else:
        deep = graph.node("MaxPool", early, kernel_shape=[8, 8], strides=[8, 8])
        deep = graph.node("Relu", graph.batch_norm(graph.conv(deep, 12, 8, bias=False), 8))
        ends = [graph.conv(deep, 8, 6), graph.conv(early, 12, 6, (1, 1))]
    proto = settled(graph.model(*ends))
    calibration = "auto" if data == "auto" else made_up(load(proto), 64, seed=9)
    assert_restores(proto, calibration=calibration)


def test_depthwise_rows_count_once_for_each_group(monkeypatch):
    """However small the kernel, the rows of all groups together stay within bounds."""
    taken = []
    rows_of = layer_fit.sample_rows
    monkeypatch.setattr(layer_fit, "sample_rows", lambda *given: taken.append(rows_of(*given)) or taken[-1])
    monkeypatch.setattr(layer_fit, "ROW_ELEMENTS", 2**12)
    monkeypatch.setattr(from_activations, "MIN_ROWS", 16)
    model = load(block(Builder(seed=2), lambda graph, x: graph.conv(x, 12, 12, group=12)))
    compressed(model, 0.5, include="producer", calibration=normal(model, 32))
    assert 2**11 < sum(rows.size for rows in taken if len(rows) == 6) <= 2**12
