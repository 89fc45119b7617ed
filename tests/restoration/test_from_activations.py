"""Restoration from activation moments: what is redundant comes back whole, and real networks keep their accuracy."""

from functools import cache

import numpy as np
import onnx
import pytest
from conftest import ROOT, shared, shared_files
from graphs import Builder
from onnx import TensorProto

from lbyl_onnx.calibration import ridge_regression
from lbyl_onnx.calibration.augmentation import ENOUGH_ROWS
from lbyl_onnx.calibration.samples import calibrate
from lbyl_onnx.calibration.staged_run import CalibratedRun
from lbyl_onnx.calibration.synthetic import input_specs, synthetic_inputs
from lbyl_onnx.compression import compress
from lbyl_onnx.model.file import load_model
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.restoration import from_activations
from lbyl_onnx.restoration.from_activations import MAX_RESCALE, rescaling
from lbyl_onnx.selection import elimination


def compressed(model, ratio=0.4, **options):
    """The model after `compress` with its defaults, and the report."""
    result = compress(model, ratio, validation=False, **options)
    return result.compressed, result.report


def normal(model, samples, seed=0):
    """Standard normal values for the only input, whatever the model makes of it."""
    (spec,) = input_specs(model)
    shape = [size or 8 for size in spec.shape[1:]]
    return {spec.name: np.random.default_rng(seed).standard_normal((samples, *shape)).astype(spec.dtype)}


def outputs(model, inputs):
    return [value.astype(np.float64) for value in run_batches(open_session(model), inputs)]


def sqnr(original, ours, inputs):
    """Signal to noise in dB of every output."""
    pairs = zip(outputs(original, inputs), outputs(ours, inputs), strict=True)
    return [10 * np.log10((old**2).sum() / max(((old - new) ** 2).sum(), 1e-300)) for old, new in pairs]


def assert_finite(model):
    for name, value in model.weights.items():
        assert value.dtype.kind not in "f" or np.isfinite(value).all(), name


def group_of(report, producer):
    return next(group for group in report.groups if producer in group.producers)


# ---- redundant channels


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
    model = load_model(graph.model(graph.gemm(flat, 6, 4)))
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


@pytest.mark.parametrize("data", ["synthetic", "given"])
@pytest.mark.parametrize("kind", ["linear", "relu", "bn"])
def test_redundant_channels_go_and_come_back(kind, data, monkeypatch):
    """On any data, foreign to the samples; to float precision but for the ridges, which hide what a channel that hardly
    varies adds and pull towards the present weights."""
    model = redundant(kind)
    calibration = "synthetic" if data == "synthetic" else normal(model, 64, seed=1)
    options = {"include": "producer", "calibration": calibration, "samples": 64}
    foreign = normal(model, 16, seed=2)
    ours, report = compressed(model, REMOVED / 12, **options)
    group = group_of(report, "producer")
    assert group.units_after == KEPT and group.predicted_error < 2e-3 and group.error < 2e-3
    assert min(sqnr(model, ours, foreign)) > 40
    monkeypatch.setattr(ridge_regression, "RIDGE", 1e-8)
    monkeypatch.setattr(elimination, "RIDGE", 1e-5)
    exact, report = compressed(model, REMOVED / 12, **options)
    assert group_of(report, "producer").error < 2e-6
    assert min(sqnr(model, exact, foreign)) > 90
    plain, _ = compressed(model, REMOVED / 12, **options, restore="none")
    assert min(sqnr(model, plain, foreign)) < 35


def test_redundant_neurons():
    """Gemm, MatMul with Add, and MatMul alone, through a nonlinearity that doubles pass."""
    graph = Builder(seed=1)
    hidden = graph.input(("N", 10))
    for name in ("first", "second"):
        hidden = graph.node("Tanh", graph.gemm(hidden, 10, 10, name=name))
    hidden = graph.node("Add", graph.matmul(hidden, 10, 10, name="third"), graph.weight(10))
    model = load_model(graph.model(graph.matmul(graph.node("Tanh", hidden), 10, 3, name="last")))
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
    assert group_of(report, "consumer").restored == "moments"
    assert group_of(report, "producer").restored is None


# ---- the trained examples

ACCURACY = {"digits_cnn": 97, "digits_cnn_folded": 97, "digits_resnet": 96}


@cache
def digits(name, data, **options):
    """An example model at ratio 0.4."""
    model = load_model(ROOT / "models" / f"{name}.onnx")
    calibration = {"image": evaluation()[0][::9][:64]} if data == "given" else "synthetic"
    return model, compressed(model, calibration=calibration, **options)[0]


@cache
def evaluation():
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return data["image"], data["labels"]


def accuracy(model, images, labels):
    (logits,) = run_batches(open_session(model), {model.proto.graph.input[0].name: images}, limit=128)
    return 100 * float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("name", ACCURACY)
def test_examples_without_data(name):
    model, ours = digits(name, "synthetic")
    assert sum(v.size for v in ours.weights.values()) < 0.85 * sum(v.size for v in model.weights.values())
    assert accuracy(ours, *evaluation()) >= ACCURACY[name]


@pytest.mark.parametrize("name", ACCURACY)
def test_examples_with_some_images(name):
    _, ours = digits(name, "given")
    assert accuracy(ours, *evaluation()) >= 98
    assert_finite(ours)


@pytest.mark.parametrize("name", ACCURACY)
def test_sixteen_images_already_help(name):
    images, labels = evaluation()
    model = load_model(ROOT / "models" / f"{name}.onnx")
    ours, _ = compressed(model, calibration={"image": images[:16]})
    assert accuracy(ours, images, labels) >= 90


def test_the_same_seed_gives_the_same_bytes():
    model = load_model(ROOT / "models" / "digits_cnn_folded.onnx")
    first, second, third = (
        compressed(model, samples=64, seed=seed)[0].to_proto().SerializeToString(deterministic=True)
        for seed in (0, 0, 1)
    )
    assert first == second != third


def test_all_groups_of_a_residual_network():
    model, ours = digits("digits_resnet", "synthetic", scope="all")
    assert_finite(ours)
    images, labels = evaluation()
    assert outputs(ours, {"image": images[:3]})[0].shape == (3, 10)
    plain, _ = compressed(model, restore="none", scope="all", samples=64)
    assert accuracy(ours, images, labels) > accuracy(plain, images, labels) + 20
    onnx.checker.check_model(ours.to_proto(), full_check=True)


# ---- unusual layers


def settled(proto, samples=128, seed=7):
    """The model with running statistics as training would have left them."""
    model = load_model(proto)
    calibrated = CalibratedRun(model, calibrate(model, samples=samples, seed=seed), "cpu")
    for node in model.proto.graph.node:
        if node.op_type == "BatchNormalization":
            calibrated.run.reach(node.output[0])
            for name, value in zip(node.input[3:5], calibrated.statistics[node.output[0]], strict=True):
                model.replace(name, value.astype(np.float32))
    calibrated.run.close()
    return model.to_proto()


def assert_restores(proto, ratio=0.5, better=True, calibration="synthetic", **options):
    """Finite, of the same interface, and no further from the original than without restoring."""
    model = load_model(proto)
    ours, report = compressed(model, ratio, calibration=calibration, samples=64, **options)
    plain, _ = compressed(model, ratio, calibration=calibration, samples=64, restore="none", **options)
    assert_finite(ours)
    inputs = synthetic_inputs(model, 16, seed=1)
    session = open_session(ours)
    assert [v.type for v in session.get_outputs()] == [v.type for v in open_session(model).get_outputs()]
    restored, lost = sqnr(model, ours, inputs), sqnr(model, plain, inputs)
    assert np.isfinite(restored).all()
    if better:
        assert min(np.subtract(restored, lost)) > -0.1 and max(np.subtract(restored, lost)) > 1
    return model, ours, report


def block(graph, follow, space=(10, 10)):
    """Conv "producer" → `follow` → Conv "consumer" → output."""
    kernel = [3] * len(space)
    hidden = follow(graph, graph.conv(graph.input(("N", 3, *space)), 3, 12, kernel, name="producer"))
    return graph.model(graph.conv(hidden, 12, 6, kernel, name="consumer"))


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
@pytest.mark.parametrize("data", ["synthetic", "given"])
def test_what_lies_between(follow, data):
    proto = settled(block(Builder(seed=2), follow))
    calibration = "synthetic" if data == "synthetic" else synthetic_inputs(load_model(proto), 64, seed=9)
    _, _, report = assert_restores(proto, calibration=calibration)
    group = group_of(report, "producer")
    assert group.restored == "moments" and group.units_after == 6
    assert 0 < group.error < 1 and 0 < group.predicted_error < 1 and group.condition >= 1
    assert "consumer" in group.recalibrated


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
@pytest.mark.parametrize("data", ["synthetic", "given"])
def test_mean_and_deviation_of_every_layer_are_those_of_the_original(kind, data):
    """On the samples, in the model that is shipped: everything that moved is in its constants."""
    proto, ends = three_layers(kind)
    model = load_model(proto)
    count = ENOUGH_ROWS if kind in ("gemm", "matmul") else 64
    samples = synthetic_inputs(model, count)
    calibration = "synthetic" if data == "synthetic" else samples
    ours, report = compressed(model, 0.5, include="first", calibration=calibration, samples=count)
    assert "second" in group_of(report, "first").recalibrated
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


@pytest.mark.parametrize("space", [(40,), (6, 6, 6)])
def test_other_ranks(space):
    assert_restores(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x), space))


def test_grouped_and_dilated_consumers():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    dilated = graph.conv(hidden, 12, 4, dilations=[2, 2], strides=[2, 2], pads=[2, 1, 0, 2])
    grouped = graph.conv(hidden, 12, 6, group=3, bias=False, auto_pad="SAME_LOWER", pads=None)
    assert_restores(graph.model(dilated, grouped))


def flattened():
    """A convolution in front of Flatten and Gemm, whose rows are far longer than there are samples."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    return load_model(graph.model(graph.gemm(graph.node("Flatten", hidden), 12 * 144, 6, name="head")))


@pytest.mark.parametrize("data", ["synthetic", "given"])
def test_rows_longer_than_their_number_are_mixed(data, monkeypatch):
    """Better on foreign samples than the fit of whole rows, which has far more unknowns than samples."""
    model = flattened()
    calibration = "synthetic" if data == "synthetic" else normal(model, 64, seed=1)
    foreign = synthetic_inputs(model, 64, seed=9) if data == "synthetic" else normal(model, 64, seed=2)
    options = {"calibration": calibration, "samples": 64, "include": "producer"}
    ours, report = compressed(model, 0.5, **options)
    group = group_of(report, "producer")
    assert group.restored == "moments" and group.note is None and "head" in group.recalibrated
    plain, _ = compressed(model, 0.5, restore="none", **options)
    monkeypatch.setattr(from_activations, "repeats", lambda classes: None)
    whole, _ = compressed(model, 0.5, **options)
    errors = [min(sqnr(model, each, foreign)) for each in (ours, whole, plain)]
    assert errors == sorted(errors, reverse=True)


def test_long_rows_of_a_convolution_are_mixed(monkeypatch):
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    model = load_model(graph.model(graph.conv(hidden, 12, 6, name="consumer")))
    whole, _ = compressed(model, 0.5, include="producer")
    monkeypatch.setattr(from_activations, "MAX_INPUTS", 20)
    ours, report = compressed(model, 0.5, include="producer")
    assert group_of(report, "producer").restored == "moments"
    plain, _ = compressed(model, 0.5, include="producer", restore="none")
    inputs = synthetic_inputs(model, 32, seed=9)
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
    return load_model(graph.model(graph.matmul(hidden, width, 10)))


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
    assert group_of(report, "producer").recalibrated == ()


@pytest.mark.parametrize("data", ["synthetic", "given"])
@pytest.mark.parametrize("kind", ["chain", "pyramid", "strided"])
def test_layers_of_which_some_rest_on_the_front_alone(kind, data, monkeypatch):
    """A later layer may look back at an early tensor, which one of the models has for more samples than the other."""
    monkeypatch.setattr(from_activations, "FRONT_ELEMENTS", 4 * 3 * 32 * 32)
    monkeypatch.setattr(from_activations, "MIN_ROWS", 4 * 32 * 32)
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
    calibration = "synthetic" if data == "synthetic" else synthetic_inputs(load_model(proto), 64, seed=9)
    assert_restores(proto, calibration=calibration)


def test_statistics_that_are_also_scales_move_alone():
    """One constant for mean and shift, one for variance and scale, as exporters merge them before training."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    zeros, ones = graph.constant(np.zeros(12)), graph.constant(np.ones(12))
    hidden = graph.conv(hidden, 12, 12, bias=False)
    hidden = graph.node("Relu", graph.node("BatchNormalization", hidden, ones, zeros, zeros, ones, name="bn"))
    model = load_model(graph.model(graph.conv(hidden, 12, 4)))
    ours, _ = compressed(model, 0.5, include="producer")
    node = next(node for node in ours.proto.graph.node if node.op_type == "BatchNormalization")
    scale, shift, mean, variance = (ours.weights[name] for name in node.input[1:])
    assert (scale == 1).all() and (shift == 0).all() and (mean != 0).any() and (variance != 1).any()
    onnx.checker.check_model(ours.to_proto(), full_check=True)


@pytest.mark.parametrize("criterion", ["obs", "l2"])
def test_a_branch_that_nothing_reaches(criterion):
    """Its convolutions see no sample at all."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 8, name="producer"))
    most = graph.node("ReduceMax", hidden, axes=[1, 2, 3], keepdims=0)
    chosen = graph.node("Compress", hidden, graph.node("Greater", most, graph.constant(1e6)), axis=0)
    inner = graph.node("Relu", graph.batch_norm(graph.conv(chosen, 8, 8, name="inner"), 8))
    model = load_model(graph.model(graph.conv(inner, 8, 4), graph.conv(hidden, 8, 4)))
    for calibration in ("synthetic", normal(model, 16)):
        options = {"criterion": criterion, "calibration": calibration, "samples": 16}
        ours, report = compressed(model, 0.5, **options, layer_errors=True)
        assert_finite(ours)
        assert not report.warnings and group_of(report, "inner").units_after == 4


def test_rows_that_each_model_selects_for_itself_are_not_fitted():
    """Which rows there are, and how many, follows from values that the cut has changed."""
    graph = Builder(seed=2)
    x = graph.input(("N", 6))
    scores = graph.gemm(graph.node("Relu", graph.gemm(x, 6, 40, name="first")), 40, 1, name="scores")
    positive = graph.node("NonZero", graph.node("Greater", scores, graph.constant(0.0)))
    places = graph.node("Gather", positive, graph.constant(0), axis=0)
    head = graph.node("Relu", graph.gemm(graph.node("Gather", x, places, axis=0), 6, 16, name="second"))
    model = load_model(graph.model(scores, graph.gemm(head, 16, 3, name="last")))
    assert {places, head, "last"} <= from_activations.selected(
        model.proto.graph
    ) and "scores" not in from_activations.selected(model.proto.graph)
    for calibration in ("synthetic", normal(model, 300)):
        ours, report = compressed(model, 0.75, calibration=calibration, samples=300)
        assert_finite(ours)
        assert group_of(report, "first").restored == "moments" and not report.warnings
        assert group_of(report, "second").error is None


def test_statistics_that_are_computed_stay():
    """A mean behind a Cast cannot be replaced, so the convolution in front is matched instead."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 12, 12)), 3, 12, name="producer"))
    hidden = graph.conv(hidden, 12, 12, bias=False, name="consumer")
    vectors = [graph.constant(graph.rng.uniform(0.5, 1.5, 12), np.float16) for _ in range(4)]
    computed = [graph.node("Cast", vector, to=TensorProto.FLOAT) for vector in vectors]
    hidden = graph.node("Relu", graph.node("BatchNormalization", hidden, *computed))
    model = load_model(graph.model(graph.conv(hidden, 12, 4)))
    ours, report = compressed(model, 0.5, include="producer")
    plain, _ = compressed(model, 0.5, include="producer", restore="none")
    inputs = synthetic_inputs(model, 16, seed=1)
    assert min(sqnr(model, ours, inputs)) > min(sqnr(model, plain, inputs)) + 2
    consumer = next(node for node in ours.proto.graph.node if node.output[0] == "consumer")
    assert len(consumer.input) == 3 and "consumer" in group_of(report, "producer").recalibrated


def test_integers_and_text_pass_through():
    """A MatMul of integers is not fitted; text crosses from one stretch to the next."""
    graph = Builder(seed=2)
    x = graph.input(("N", 5))
    text = graph.node("Cast", x, to=TensorProto.STRING)
    whole = graph.node("Cast", x, to=TensorProto.INT32)
    whole = graph.node("MatMul", whole, graph.constant(np.arange(20).reshape(5, 4), np.int32, "whole"))
    hidden = graph.gemm(graph.node("Relu", graph.gemm(x, 5, 16, name="producer")), 16, 5)
    hidden = graph.gemm(graph.node("Add", hidden, graph.node("Cast", text, to=TensorProto.FLOAT)), 5, 4)
    model = load_model(graph.model(graph.node("Add", hidden, graph.node("Cast", whole, to=TensorProto.FLOAT))))
    ours, report = compressed(model, 0.5, include="producer", calibration=normal(model, 64))
    np.testing.assert_array_equal(ours.weights["whole"], model.weights["whole"])
    assert group_of(report, "producer").restored == "moments" and not report.warnings


def test_depthwise_rows_count_once_for_each_group(monkeypatch):
    """However small the kernel, the rows of all groups together stay within bounds."""
    taken = []
    rows_of = from_activations.sample_rows
    monkeypatch.setattr(from_activations, "sample_rows", lambda *given: taken.append(rows_of(*given)) or taken[-1])
    monkeypatch.setattr(from_activations, "ROW_ELEMENTS", 2**12)
    monkeypatch.setattr(from_activations, "MIN_ROWS", 16)
    model = load_model(block(Builder(seed=2), lambda graph, x: graph.conv(x, 12, 12, group=12)))
    compressed(model, 0.5, include="producer", calibration=normal(model, 32))
    (depthwise,) = (rows for rows in taken if len(rows) == 6)
    assert 2**11 < depthwise.size <= 2**12


def test_transposed_convolutions_as_consumers():
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 12, name="producer"))
    weights = graph.weight(12, 4, 3, 3), graph.weight(4)
    up = graph.node("ConvTranspose", hidden, *weights, strides=[2, 2], pads=[1, 1, 0, 0], name="up")
    _, _, report = assert_restores(graph.model(up))
    assert group_of(report, "producer").restored == "moments"


def test_half_precision():
    graph = Builder(seed=2)
    hidden = graph.input(("N", 3, 8, 8), kind=TensorProto.FLOAT16)
    for inputs, filters, name in ((3, 12, "producer"), (12, 6, "consumer")):
        weight = graph.constant(graph.rng.standard_normal((filters, inputs, 3, 3)) / 4, np.float16)
        bias = graph.constant(graph.rng.standard_normal(filters), np.float16)
        hidden = graph.node("Conv", graph.node("Relu", hidden), weight, bias, pads=[1] * 4, name=name)
    _, ours, _ = assert_restores(graph.model(hidden))
    assert {v.dtype for v in ours.weights.values()} == {np.dtype(np.float16)}


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
    assert_restores(graph.model(graph.node("Mul", hidden, scale)))


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
    assert_restores(proto, calibration=normal(load_model(proto), 32))


def test_a_normalisation_of_tokens_behind_matmul():
    """BatchNormalization over axis 1 of (N, tokens, channels): its running mean is none of MatMul's channels."""
    for tokens in (5, 12):
        graph = Builder(seed=2)
        hidden = graph.node("Tanh", graph.matmul(graph.input(("N", tokens, 6)), 6, 10, name="producer"))
        hidden = graph.batch_norm(graph.matmul(hidden, 10, 12), tokens)
        proto = settled(graph.model(graph.node("Relu", hidden)))
        assert_restores(proto)
        assert_restores(proto, calibration=normal(load_model(proto), 64, seed=3))


# ---- degenerate statistics


def changed(proto, **changes):
    """The model with weights of its node "producer" changed: functions of the weight and the bias."""
    model = load_model(proto)
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
@pytest.mark.parametrize("data", ["synthetic", "given"])
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
    calibration = "synthetic" if data == "synthetic" else synthetic_inputs(load_model(proto), 64, seed=9)
    model, ours, report = assert_restores(proto, ratio, better=False, calibration=calibration)
    largest = max(np.abs(value).max() for value in model.weights.values())
    assert max(np.abs(value).max() for value in ours.weights.values()) < 20 * largest
    if ratio == 0.25 and not normalise:
        assert group_of(report, "producer").predicted_error < 2e-3
        assert min(sqnr(model, ours, synthetic_inputs(model, 16, seed=4))) > 50


def test_a_network_that_is_dead_altogether():
    proto = changed(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x)), bias=filled(slice(None), -1e3))
    model, ours, _ = assert_restores(proto, better=False)
    assert min(sqnr(model, ours, synthetic_inputs(model, 4, seed=4))) > 80


def test_constant_samples():
    """All samples alike: no variance anywhere but in space."""
    model = load_model(block(Builder(seed=2), lambda graph, x: graph.node("Relu", x)))
    for value in (0.0, 1.0):
        ours, _ = compressed(model, 0.5, calibration={"x": np.full((8, 3, 10, 10), value, np.float32)})
        assert_finite(ours)
        assert np.isfinite(outputs(ours, normal(model, 4))[0]).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_few_samples(samples):
    model = load_model(block(Builder(seed=2), lambda graph, x: graph.node("Relu", graph.batch_norm(x, 12))))
    for calibration in ("synthetic", normal(model, samples)):
        ours, _ = compressed(model, 0.5, calibration=calibration, samples=samples)
        assert_finite(ours)
        assert min(sqnr(model, ours, synthetic_inputs(model, 16, seed=3))) > -10


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scope", ["chains", "all"])
def test_activations_that_are_not_finite_leave_their_layers_alone(scope):
    """The logarithm of synthetic values is nan for half of them."""
    graph = Builder(seed=2)
    hidden = graph.node("Relu", graph.gemm(graph.node("Log", graph.input(("N", 6))), 6, 8, name="first"))
    proto = graph.model(graph.batch_norm(graph.gemm(hidden, 8, 3, name="last"), 3))
    model = load_model(proto)
    ours, report = compressed(model, 0.5, scope=scope)
    assert_finite(ours)
    group = group_of(report, "first")
    assert group.units_after == 4 and group.error is None
    positive = {"x": np.random.default_rng(0).uniform(0.5, 2, (64, 6)).astype(np.float32)}
    ours, report = compressed(model, 0.5, scope=scope, calibration=positive)
    assert group_of(report, "first").error is not None


def test_rescaling_is_bounded():
    wanted = np.array([1.0, 4.0, 1e6, 1e-6, 0.0, 1.0, 1e-30])
    found = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1e-3])
    scale = rescaling(wanted, found, np.zeros(7))
    np.testing.assert_allclose(scale, [1, 2, MAX_RESCALE, 1 / MAX_RESCALE, 1, 1, 1])
    assert (rescaling(np.zeros(3), np.zeros(3), np.zeros(3)) == 1).all()
    assert rescaling(np.array([1e-8]), np.array([4e-8]), np.array([100.0])) == 1


# ---- the shared models


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["chains", "all"])
@pytest.mark.parametrize("path", shared_files("models"), ids=lambda path: path.stem)
def test_never_worse_than_leaving_the_weights_alone(path, scope):
    """Every output, on synthetic inputs of another seed, with few samples where these are large."""
    model = load_model(path)
    samples = 64 if max(size or 0 for spec in input_specs(model) for size in spec.shape) > 64 else None
    ours, _ = compressed(model, 0.3, scope=scope, samples=samples)
    inputs = synthetic_inputs(model, 32, seed=1000)
    restored = sqnr(model, ours, inputs)
    for criterion in ("obs", "l2"):
        plain, _ = compressed(model, 0.3, scope=scope, restore="none", criterion=criterion, samples=samples)
        lost = sqnr(model, plain, inputs)
        assert all(after >= before for before, after in zip(lost, restored, strict=True)), (lost, restored)


@cache
def pictures(name):
    """Images of a data file as its models take them, and their labels (None: there are none)."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if "cifar" in name else (0.5, 0.5)
    with np.load(shared("data", f"{name}.npz")) as data:
        images, labels = data["images"].astype(np.float32) / 255, data.get("labels")
    images = images.reshape(*images.shape[:3], -1)
    scaled = (images - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ratio", "no_data", "with_data"),
    [
        ("resnet20_cifar10", 0.3, 70, 71),
        ("resnet20_cifar10", 0.5, 59, 60),
        ("resnet20_cifar10_folded", 0.3, 64, 71),
        ("resnet20_cifar10_folded", 0.5, 46, 60),
        ("lenet_300_100_fashion", 0.5, 88.7, 89),
        ("lenet_300_100_fashion", 0.7, 86, 87),
        ("lenet_300_100_fashion", 0.8, 78, 85),
    ],
)
def test_accuracy_of_real_networks(name, ratio, no_data, with_data):
    """Without data and with 256 unlabelled images."""
    model = load_model(shared("models", f"{name}.onnx"))
    kind = "cifar10" if "cifar10" in name else "fashion_mnist"
    evaluated = pictures(f"{kind}_{'eval' if kind == 'cifar10' else 'test'}")
    given = {model.proto.graph.input[0].name: pictures(f"{kind}_calibration")[0]}
    found = [accuracy(compressed(model, ratio, calibration=c)[0], *evaluated) for c in ("synthetic", given)]
    assert found[0] >= no_data and found[1] >= with_data, found


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["chains", "all"])
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet20_cifar10_folded", "lenet_300_100_fashion"])
def test_not_worse_than_none_on_real_images(name, scope):
    """Without data, on images that nothing was fitted to."""
    model = load_model(shared("models", f"{name}.onnx"))
    images, _ = pictures("cifar10_eval" if "cifar10" in name else "fashion_mnist_test")
    inputs = {model.proto.graph.input[0].name: images[:500]}
    ours, plain = (compressed(model, 0.3, scope=scope, restore=method)[0] for method in ("moments", "none"))
    assert min(sqnr(model, ours, inputs)) > min(sqnr(model, plain, inputs))
