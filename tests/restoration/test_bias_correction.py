"""Mean and variance of every layer, and running statistics, after a restoration from activations."""

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto
from restoring import assert_restores, compressed, group_of, made_up, measured_on, normal, settled, sqnr

from lbyl_onnx.calibration.augmentation import ENOUGH_ROWS
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.restoration.bias_correction import MAX_RESCALE, rescaling


def three_layers(kind):
    """Three layers named "first" to "third", and the tensors that the last two end in."""
    graph = Builder(seed=4)
    space = () if kind in ("gemm", "matmul") else (8, 8)
    hidden, width, ends = graph.input(("N", 3, *space)), 3, []
    for name, filters in (("first", 10), ("second", 8), ("third", 6)):
        if kind == "gemm":
            hidden = graph.gemm(hidden, width, filters, name=name)
        elif kind == "matmul":
            hidden = graph.node("Add", graph.matmul(hidden, width, filters, name=name), graph.weight(filters))
        else:
            hidden = graph.conv(hidden, width, filters, bias=kind == "conv", name=name)
            hidden = graph.batch_norm(hidden, filters) if kind == "bn" else hidden
        ends.append(hidden)
        hidden, width = graph.node("Sigmoid", hidden), filters
    return settled(graph.model(hidden), samples=64, seed=0), ends[1:]


@pytest.mark.parametrize("kind", ["conv", "vacant", "bn", "gemm", "matmul"])
@pytest.mark.parametrize("data", ["auto", "given"])
def test_mean_and_deviation_of_every_layer_are_those_of_the_original(kind, data):
    """On the samples that were measured on, in the model that is shipped: everything that moved is in its constants."""
    proto, ends = three_layers(kind)
    model = load(proto)
    count = ENOUGH_ROWS if kind in ("gemm", "matmul") else 64
    calibration = "auto" if data == "auto" else made_up(model, count)
    samples = measured_on(model, calibration, count)
    ours, report = compressed(model, 0.5, include="first", calibration=calibration, samples=count)
    assert "second" in group_of(report, "first").outcome.recalibrated
    found = []
    for each in (model, ours):
        exposed = each.copy()
        exposed.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
        found.append(run_batches(open_session(exposed), samples, ends, limit=64))
    for expected, value in zip(*found, strict=True):
        others = (0, *range(2, value.ndim))
        deviation = expected.std(axis=others)
        assert (np.abs(value.mean(axis=others) - expected.mean(axis=others)) < 2e-3 * deviation).all()
        np.testing.assert_allclose(value.std(axis=others), deviation, rtol=2e-3)


def test_statistics_that_are_also_scales_move_alone():
    """One constant for mean and shift, one for variance and scale, as exporters merge them before training."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    zeros, ones = graph.constant(np.zeros(12)), graph.constant(np.ones(12))
    hidden = graph.conv(hidden, 12, 12, bias=False)
    hidden = graph.node("Relu", graph.node("BatchNormalization", hidden, ones, zeros, zeros, ones, name="bn"))
    model = load(graph.model(graph.conv(hidden, 12, 4)))
    ours, _ = compressed(model, 0.5, include="producer")
    node = next(node for node in ours.proto.graph.node if node.op_type == "BatchNormalization")
    scale, shift, mean, variance = (ours.weights[name] for name in node.input[1:])
    assert (scale == 1).all() and (shift == 0).all() and (mean != 0).any() and (variance != 1).any()
    onnx.checker.check_model(ours.to_proto(), full_check=True)


def normalised(through):
    """Conv "producer", Conv "consumer" and a BatchNormalization of float16 vectors, each seen `through` other nodes."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    hidden = graph.conv(hidden, 12, 12, bias=False, name="consumer")
    names = [f"{each}.half" for each in ("scale", "shift", "mean", "variance")]
    vectors = [graph.constant(graph.rng.uniform(0.5, 1.5, 12), np.float16, name) for name in names]
    seen = [through(graph, graph.node("Cast", vector, to=TensorProto.FLOAT)) for vector in vectors]
    hidden = graph.node("Relu", graph.node("BatchNormalization", hidden, *seen))
    return load(graph.model(graph.conv(hidden, 12, 4)))


def assert_normalised_restores(model):
    """The model without half of the consumer's inputs, and the consumer."""
    ours, report = compressed(model, 0.5, include="producer")
    plain, _ = compressed(model, 0.5, include="producer", restore="none")
    inputs = made_up(model, 16, seed=1)
    assert min(sqnr(model, ours, inputs)) > min(sqnr(model, plain, inputs)) + 2
    assert "consumer" in group_of(report, "producer").outcome.recalibrated
    return ours, next(node for node in ours.proto.graph.node if node.output[0] == "consumer")


def test_statistics_that_are_computed_stay():
    """A mean behind an Abs cannot be replaced, so the convolution in front is matched instead."""
    model = normalised(lambda graph, vector: graph.node("Abs", vector))
    ours, consumer = assert_normalised_restores(model)
    assert len(consumer.input) == 3
    for name in ("mean.half", "variance.half"):
        np.testing.assert_array_equal(ours.weights[name], model.weights[name])


def test_statistics_behind_a_cast_move_in_their_own_type():
    model = normalised(lambda graph, vector: vector)
    ours, consumer = assert_normalised_restores(model)
    assert len(consumer.input) == 2
    for name in ("mean.half", "variance.half"):
        assert ours.weights[name].dtype == np.float16 and (ours.weights[name] != model.weights[name]).any()
    for name in ("scale.half", "shift.half"):
        np.testing.assert_array_equal(ours.weights[name], model.weights[name])


def test_a_normalisation_of_tokens_behind_matmul():
    """BatchNormalization over axis 1 of (N, tokens, channels): its running mean is none of MatMul's channels."""
    for tokens in (5, 12):
        graph = Builder(seed=2)
        hidden = graph.node("Tanh", graph.matmul(graph.input(("N", tokens, 6)), 6, 10, name="producer"))
        hidden = graph.batch_norm(graph.matmul(hidden, 10, 12), tokens)
        proto = settled(graph.model(graph.node("Relu", hidden)))
        assert_restores(proto)
        assert_restores(proto, calibration=normal(load(proto), 64, seed=3))


def test_rescaling_is_bounded():
    wanted = np.array([1.0, 4.0, 1e6, 1e-6, 0.0, 1.0, 1e-30])
    found = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1e-3])
    scale = rescaling(wanted, found, np.zeros(7))
    np.testing.assert_allclose(scale, [1, 2, MAX_RESCALE, 1 / MAX_RESCALE, 1, 1, 1])
    assert (rescaling(np.zeros(3), np.zeros(3), np.zeros(3)) == 1).all()
    assert rescaling(np.array([1e-8]), np.array([4e-8]), np.array([100.0])) == 1
