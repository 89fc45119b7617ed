"""Restoration from activations of layers of every kind, rank, type and place in the graph."""

import ml_dtypes
import numpy as np
import pytest
from graphs import Builder
from onnx import TensorProto
from restoring import assert_finite, assert_restores, block, compressed, group_of, measured_on, normal, outputs

from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session
from lbyl_onnx.restoration import paired_run


@pytest.mark.parametrize("space", [(40,), (6, 6, 6)])
def test_other_ranks(space):
    assert_restores(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x), space))


def test_grouped_and_dilated_consumers():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    dilated = graph.conv(hidden, 12, 4, dilations=[2, 2], strides=[2, 2], pads=[2, 1, 0, 2])
    grouped = graph.conv(hidden, 12, 6, group=3, bias=False, auto_pad="SAME_LOWER", pads=None)
    assert_restores(graph.model(dilated, grouped))


@pytest.mark.parametrize("criterion", ["obs", "l2"])
def test_a_branch_that_nothing_reaches(criterion):
    """Its convolutions see no sample at all."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 8, name="producer"))
    most = graph.node("ReduceMax", hidden, axes=[1, 2, 3], keepdims=0)
    chosen = graph.node("Compress", hidden, graph.node("Greater", most, graph.constant(1e6)), axis=0)
    inner = graph.node("Relu", graph.batch_norm(graph.conv(chosen, 8, 8, name="inner"), 8))
    model = load(graph.model(graph.conv(inner, 8, 4), graph.conv(hidden, 8, 4)))
    for calibration in ("auto", normal(model, 16)):
        options = {"criterion": criterion, "calibration": calibration, "samples": 16}
        ours, report = compressed(model, 0.5, **options, layer_errors=True)
        assert_finite(ours)
        assert group_of(report, "inner").units_after == 4 and not report.fallbacks
        assert group_of(report, "inner").criterion == "l2"
        assert len(report.warnings) == (criterion == "obs")
        assert all("ranked by l2" in warning for warning in report.warnings)


def test_rows_that_each_model_selects_for_itself_are_not_fitted():
    """Which rows there are, and how many, follows from values that the cut has changed."""
    graph = Builder(seed=2)
    x = graph.input(("N", 6))
    scores = graph.gemm(graph.node("Relu", graph.gemm(x, 6, 40, name="first")), 40, 1, name="scores")
    positive = graph.node("NonZero", graph.node("Greater", scores, graph.constant(0.0)))
    places = graph.node("Gather", positive, graph.constant(0), axis=0)
    head = graph.node("Relu", graph.gemm(graph.node("Gather", x, places, axis=0), 6, 16, name="second"))
    model = load(graph.model(scores, graph.gemm(head, 16, 3, name="last")))
    chosen = paired_run.selected(model.proto.graph)
    assert {places, head, "last"} <= chosen and "scores" not in chosen
    for calibration in ("auto", normal(model, 300)):
        ours, report = compressed(model, 0.75, calibration=calibration, samples=300)
        assert_finite(ours)
        assert group_of(report, "first").outcome.restored == "moments" and not report.warnings
        assert group_of(report, "second").outcome.error is None


def test_integers_and_text_pass_through():
    """A MatMul of integers is not fitted; text crosses from one stretch to the next."""
    graph = Builder(seed=2)
    x = graph.input(("N", 5))
    text = graph.node("Cast", x, to=TensorProto.STRING)
    whole = graph.node("Cast", x, to=TensorProto.INT32)
    whole = graph.node("MatMul", whole, graph.constant(np.arange(20).reshape(5, 4), np.int32, "whole"))
    hidden = graph.gemm(graph.node("Relu", graph.gemm(x, 5, 16, name="producer")), 16, 5)
    hidden = graph.gemm(graph.node("Add", hidden, graph.node("Cast", text, to=TensorProto.FLOAT)), 5, 4)
    model = load(graph.model(graph.node("Add", hidden, graph.node("Cast", whole, to=TensorProto.FLOAT))))
    ours, report = compressed(model, 0.5, include="producer", calibration=normal(model, 64))
    np.testing.assert_array_equal(ours.weights["whole"], model.weights["whole"])
    assert group_of(report, "producer").outcome.restored == "moments" and not report.warnings


def test_transposed_convolutions_as_consumers():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 12, name="producer"))
    weights = graph.weight(12, 4, 3, 3), graph.weight(4)
    up = graph.node("ConvTranspose", hidden, *weights, strides=[2, 2], pads=[1, 1, 0, 0], name="up")
    _, _, report = assert_restores(graph.model(up))
    assert group_of(report, "producer").outcome.restored == "moments"


def test_transposed_convolutions_that_rows_do_not_describe_are_recalibrated():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 12, name="producer"))
    weights = graph.weight(12, 4, 3, 3), graph.weight(4)
    up = graph.node("ConvTranspose", hidden, *weights, strides=[2, 2], output_shape=[16, 16], name="up")
    model, ours, report = assert_restores(graph.model(up), better=False)
    outcome = group_of(report, "producer").outcome
    assert outcome.recalibrated == ("up",) and outcome.restored is None and outcome.note == "not fitted: up"
    samples = measured_on(model)
    (expected,), (found,) = (outputs(each, samples) for each in (model, ours))
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), expected.mean(axis=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), expected.std(axis=(0, 2, 3)), rtol=1e-3)


def test_half_precision():
    graph = Builder(seed=2)
    hidden = graph.input(("N", 3, 8, 8), kind=TensorProto.FLOAT16)
    for inputs, filters, name in ((3, 12, "producer"), (12, 6, "consumer")):
        weight = graph.constant(graph.rng.standard_normal((filters, inputs, 3, 3)) / 4, np.float16)
        bias = graph.constant(graph.rng.standard_normal(filters), np.float16)
        hidden = graph.node("Conv", graph.node("Relu", hidden), weight, bias, pads=[1] * 4, name=name)
    _, ours, _ = assert_restores(graph.model(hidden))
    assert {v.dtype for v in ours.weights.values()} == {np.dtype(np.float16)}


def test_bfloat16_behind_a_cast():
    """onnxruntime computes in float32 what is stored in bfloat16."""
    graph = Builder(seed=2)
    hidden = graph.input(("N", 3, 8, 8))
    for inputs, filters, name in ((3, 12, "producer"), (12, 6, "consumer")):
        value = (graph.rng.standard_normal((filters, inputs, 3, 3)) / 4).astype(ml_dtypes.bfloat16)
        weight = graph.node("Cast", graph.constant(value, name=f"{name}.weight"), to=TensorProto.FLOAT)
        hidden = graph.node("Conv", graph.node("Relu", hidden), weight, pads=[1] * 4, name=name)
    _, ours, report = assert_restores(graph.model(hidden))
    assert group_of(report, "producer").outcome.restored == "moments"
    stored = [ours.weights[f"{name}.weight"] for name in ("producer", "consumer")]
    assert [value.shape[:2] for value in stored] == [(6, 3), (6, 6)]
    assert {value.dtype for value in stored} == {np.dtype(ml_dtypes.bfloat16)}


def test_large_values_in_half_precision():
    """Activations of some hundreds, whose squares float16 does not hold."""
    graph = Builder(seed=2)
    hidden = graph.input(("N", 8), kind=TensorProto.FLOAT16)
    for inputs, outs, scale in ((8, 12, 200.0), (12, 4, 1.0)):
        weight = graph.constant(graph.rng.standard_normal((outs, inputs)) * scale / 3, np.float16)
        hidden = graph.node("Relu", graph.node("Gemm", hidden, weight, transB=1))
    assert_restores(graph.model(hidden))


def test_double_precision():
    graph = Builder(seed=2)
    hidden = graph.input(("N", 6), kind=TensorProto.DOUBLE)
    for inputs, outs in ((6, 12), (12, 4)):
        weight = graph.constant(graph.rng.standard_normal((inputs, outs)), np.float64)
        hidden = graph.node("Tanh", graph.node("MatMul", hidden, weight))
    assert_restores(graph.model(hidden))


def test_several_inputs_and_token_ids():
    graph = Builder(seed=2)
    ids = graph.input(("N", 6), "ids", TensorProto.INT64)
    mask = graph.input(("N", 6), "mask")
    scale = graph.input((), "scale")
    hidden = graph.node("Gather", graph.weight(20, 8), ids)
    hidden = graph.node("Relu", graph.node("Add", graph.matmul(hidden, 8, 12, name="up"), graph.weight(12)))
    hidden = graph.node("Add", graph.matmul(hidden, 12, 8, name="down"), graph.weight(8))
    hidden = graph.node("Mul", hidden, graph.node("Unsqueeze", mask, graph.constant([2])))
    assert_restores(graph.model(graph.node("Mul", hidden, scale)), criterion="l2")


def test_a_static_batch_of_one():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input((1, 3, 8, 8)), 3, 12, name="producer"))
    flat = graph.node(
        "Reshape", graph.node("MaxPool", hidden, kernel_shape=[4, 4], strides=[4, 4]), graph.constant([1, -1])
    )
    _, ours, _ = assert_restores(graph.model(graph.gemm(flat, 48, 5)))
    assert open_session(ours).get_inputs()[0].shape == [1, 3, 8, 8]


def test_learned_constants_as_data():
    """A weight that multiplies learned tokens: there is no activation to wait for."""
    graph = Builder(seed=2)
    tokens = graph.weight(1, 5, 12)
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 12, name="producer")
    hidden = graph.node("Tanh", graph.node("Add", hidden, tokens))
    proto = graph.model(graph.node("Add", graph.matmul(hidden, 12, 4), graph.matmul(tokens, 12, 4)))
    assert_restores(proto)
    assert_restores(proto, calibration=normal(load(proto), 32))
