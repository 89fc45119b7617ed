"""The parts of what a restoration leaves: known by hand on small graphs, compared between methods on a real one."""

import json

import numpy as np
import pytest
from conftest import ROOT, shared
from graphs import Builder
from uniform import compress

from lbyl_onnx import compression
from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.channels.folding import FoldedReader
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import MeasurementFailed
from lbyl_onnx.evaluation import layer_errors, preparation
from lbyl_onnx.evaluation.layer_errors import channel_fit, error_energies
from lbyl_onnx.evaluation.records import LayerErrors
from lbyl_onnx.evaluation.validation import validate
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions
from lbyl_onnx.restoration import RESTORATIONS

TERMS = ("residual_error", "batch_norm_error", "activation_error", "reconstruction_error")
CNN = ROOT / "models" / "digits_cnn.onnx"


def measured(model, ratio=0.5, restore="none", given=None, **options):
    """The model after `compress`, and the records of its groups that lost units. `given`: the samples, as they are."""
    options = {"criterion": "l2", "validation": False, "provider": "cpu", "layer_errors": True, **options}
    with pytest.MonkeyPatch.context() as patch:
        if given is not None:
            patch.setattr(preparation, "calibrate", lambda *_: Calibration(halves(given), (0, 1), False, "given"))
        result = compress(model, ratio, restore=restore, **options)
    return result.compressed, [group for group in result.report.groups if group.units_after < group.units_before]


def halves(inputs):
    """The samples as two batches, one for each fold."""
    return [{name: part} for name, array in inputs.items() for part in np.array_split(array, 2)]


def terms(group):
    return [getattr(group.errors, name) for name in TERMS]


def dense(weight, bias, activation="Relu"):
    """x (N, inputs) → Gemm "first" of these weights → activation → Gemm "last" → 2 values."""
    graph = Builder()
    units, inputs = np.shape(weight)
    weights = graph.constant(np.asarray(weight, np.float32)), graph.constant(np.asarray(bias, np.float32))
    hidden = graph.node("Gemm", graph.input(("N", inputs)), *weights, transB=1, name="first")
    hidden = graph.node(activation, hidden) if activation else hidden
    return graph.model(graph.gemm(hidden, units, 2, name="last"))


def values(model, names, inputs):
    """Activations of a model, float64."""
    exposed = model.copy()
    del exposed.proto.graph.output[:]
    exposed.proto.graph.output.extend(type(model.proto.graph.output[0])(name=name) for name in names)
    return [value.astype(np.float64) for value in run(open_session(exposed), inputs, names)]


def rows(value):
    return np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])


def by_hand(before, after, removed, mixing):
    """RE, BE, AE and the reconstruction error as the module's docstring defines them, channel by channel."""
    numbers = np.zeros(4)
    kept = np.flatnonzero(~removed)
    for j, line in zip(np.flatnonzero(removed), mixing, strict=True):
        inside = before[:, j] - sum(s * before[:, k] for s, k in zip(line, kept, strict=True))
        outside = after[:, j] - sum(s * after[:, k] for s, k in zip(line, kept, strict=True))
        bend = ((after - before)[:, j] - sum(s * (after - before)[:, k] for s, k in zip(line, kept, strict=True))) ** 2
        numbers += inside.var(), inside.mean() ** 2, bend.mean(), (outside**2).mean()
    return numbers / (after[:, removed] ** 2).mean(axis=0).sum()


# ---- the terms


X = np.array([[-1.0], [0.0], [1.0]], np.float32)
"""With n = (4x, 2x + 1): n_1 is -1, 1, 3 and a_1 = Relu(n_1) 0, 1, 3, so E[a_1^2] = 10/3."""


def test_plain_removal_by_hand():
    """Var[n_1] = 8/3, E[n_1] = 1, E[d_1^2] = 1/3."""
    _, (group,) = measured(dense([[4], [2]], [0, 1]), given={"x": X})
    assert (group.name, group.units_after) == ("first", 1)
    assert terms(group) == pytest.approx([0.8, 0.3, 0.1, 1.0])


@pytest.mark.parametrize(("offset", "expected"), [(0.0, [0, 1, 1 / 3, 2 / 3]), (1.0, [0, 0, 1 / 3, 1 / 3])])
def test_a_replacement_by_hand(offset, expected):
    """n_1 - n_0/2 is 1 everywhere; a_1 - a_0/2 is 0, 1, 1."""
    before = np.hstack([4 * X, 2 * X + 1])
    found = error_energies(
        before, np.maximum(before, 0), np.array([False, True]), np.array([[0.5]]), np.array([offset]), True
    )
    assert found == pytest.approx([*expected, 10 / 3], abs=1e-7)


@pytest.mark.parametrize("method", RESTORATIONS)
def test_without_activation_there_is_no_activation_error(method):
    rng = np.random.default_rng(0)
    model = dense(rng.standard_normal((8, 5)), rng.standard_normal(8), activation=None)
    _, (group,) = measured(model, restore=method, given={"x": rng.standard_normal((200, 5)).astype(np.float32)})
    assert group.errors.activation_error == 0
    assert group.errors.residual_error + group.errors.batch_norm_error == pytest.approx(
        group.errors.reconstruction_error, rel=1e-4
    )
    if method == "none":
        assert group.errors.reconstruction_error == pytest.approx(1)


@pytest.mark.parametrize("method", ["lbyl", "neuron-merging", "moments"])
def test_redundant_channels_leave_nothing(method):
    """Filters 4 to 7 are multiples of 0 to 3, which Relu lets through."""
    rng = np.random.default_rng(1)
    factors = np.array([0.5, 0.1, 0.7, 0.3])[:, None]
    layer = rng.standard_normal((4, 6))
    layer = np.vstack([layer, factors * layer])
    options = {"lambda1": 0, "lambda2": 0, "given": {"x": rng.standard_normal((400, 5)).astype(np.float32)}}
    _, (group,) = measured(dense(layer[:, :5], layer[:, 5]), restore=method, **options)
    assert group.outcome.restored == method
    assert max(terms(group)) < (1e-4 if method == "moments" else 1e-10)
    assert group.errors.ware < (5e-2 if method == "moments" else 1e-5)
    _, (plain,) = measured(dense(layer[:, :5], layer[:, 5]), **options)
    assert plain.errors.reconstruction_error == pytest.approx(1) and min(*terms(plain), plain.errors.ware) > 1e-2


def convolutions(middle=None):
    """Conv "producer" → BatchNormalization → Relu → `middle` → Conv "consumer"."""
    graph = Builder(seed=5)
    hidden = graph.node("Relu", graph.batch_norm(graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer"), 8))
    hidden = middle(graph, hidden) if middle else hidden
    return load(graph.model(graph.conv(hidden, 8, 4, name="consumer")))


def images(count=20, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 6)).astype(np.float32)}


def removed_units(model, compressed):
    """Units of the only group that a compressed model misses, bool (units,), by their filters."""
    filters, left = (m.weights[m.proto.graph.node[0].input[1]] for m in (model, compressed))
    return np.array([not any(np.array_equal(filter, other) for other in left) for filter in filters])


def shuffled(graph, x):
    return graph.node("Gather", x, graph.constant([3, 1, 0, 7, 5, 2, 6, 4]), axis=1)


@pytest.mark.parametrize("middle", [None, shuffled])
@pytest.mark.parametrize("method", ["none", "lbyl", "neuron-merging"])
def test_the_definitions_on_a_convolution(method, middle):
    model = convolutions(middle)
    compressed, (group,) = measured(model, restore=method, criterion="random", given=images())
    removed = removed_units(model, compressed)
    assert removed.sum() == 4 and 0 < removed[:4].sum() < 4
    assert (group.outcome.restored or "none") == method
    normalised, relu = (node.output[0] for node in model.proto.graph.node[1:3])
    before, after = (rows(value) for value in values(model, [normalised, relu], images()))
    mixing = np.zeros((4, 4))
    if method != "none":
        analysis = analyse(model, probe(model))
        layer = FoldedReader(model).single(analysis.groups[0])
        mixing = RESTORATIONS[method].mixer(layer, np.flatnonzero(~removed), np.flatnonzero(removed), PruneOptions())
        assert mixing.any()
    assert terms(group) == pytest.approx(by_hand(before, after, removed, mixing), rel=1e-4)
    assert group.errors.activation_error > 0.01


def test_synthetic_samples_are_normalised_by_their_own_statistics():
    """Then mean and variance of n are β and γ², whatever the samples: RE and BE of removing without restoring."""
    graph = Builder(seed=5)
    hidden = graph.batch_norm(graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer"), 8)
    model = load(graph.model(graph.conv(hidden, 8, 4, name="consumer")))
    compressed, (group,) = measured(model, criterion="random", samples=300)
    removed = removed_units(model, compressed)
    gamma, beta = (model.weights[name][removed].astype(np.float64) for name in model.proto.graph.node[1].input[1:3])
    energy = (gamma**2).sum() + (beta**2).sum()
    assert group.errors.residual_error == pytest.approx((gamma**2).sum() / energy, rel=0.05)
    assert group.errors.batch_norm_error == pytest.approx((beta**2).sum() / energy, rel=0.05)


def test_consumers_with_different_inputs_count_together():
    """One reads n itself, the other Relu(n): removing without restoring loses 1 of both together."""
    graph = Builder(seed=5)
    hidden = graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer")
    relu = graph.node("Relu", hidden)
    model = load(graph.model(graph.conv(hidden, 8, 4, name="plain"), graph.conv(relu, 8, 4, name="bent")))
    compressed, (group,) = measured(model, criterion="random", given=images())
    removed = removed_units(model, compressed)
    before, after = (rows(value)[:, removed] for value in values(model, [hidden, relu], images()))
    energy = (before**2).mean(axis=0).sum() + (after**2).mean(axis=0).sum()
    bend = ((after - before) ** 2).mean(axis=0).sum()
    expected = [2 * before.var(axis=0).sum(), 2 * (before.mean(axis=0) ** 2).sum(), bend, energy]
    assert terms(group) == pytest.approx(np.array(expected) / energy, rel=1e-4)


def test_few_rows_are_taken_at_the_same_positions(monkeypatch):
    """A Clip that changes nothing makes another tensor of the same values: any shift of positions would show."""
    graph = Builder(seed=5)
    hidden = graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer")
    bounds = graph.constant(np.float32(-100)), graph.constant(np.float32(100))
    model = graph.model(graph.conv(graph.node("Clip", hidden, *bounds), 8, 4, name="consumer"))
    _, (full,) = measured(model, given=images(80))
    monkeypatch.setattr(layer_errors, "MAX_ROWS", 500)
    _, (few,) = measured(model, given=images(80))
    assert few.errors.activation_error == 0 == full.errors.activation_error
    assert few.errors.residual_error != full.errors.residual_error and few.errors.residual_error == pytest.approx(
        full.errors.residual_error, 0.2
    )


# ---- what cannot be measured


def pooled(graph, x):
    return graph.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def test_between_other_positions_the_activation_has_no_error_of_its_own():
    _, (group,) = measured(convolutions(pooled), restore="lbyl", given=images())
    assert group.errors.activation_error is None and group.outcome.restored == "lbyl"
    assert (
        min(
            group.errors.residual_error,
            group.errors.batch_norm_error,
            group.errors.reconstruction_error,
            group.errors.ware,
        )
        > 0
    )


@pytest.mark.parametrize("method", RESTORATIONS)
def test_flatten_in_front_of_a_matrix(method):
    graph = Builder(seed=5)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer"))
    model = graph.model(graph.gemm(graph.node("Flatten", pooled(graph, hidden)), 96, 4))
    _, (group,) = measured(model, restore=method, given=images(200))
    assert (
        group.errors.activation_error is None
        and min(group.errors.residual_error, group.errors.batch_norm_error, group.errors.ware) > 0
    )
    assert (group.errors.reconstruction_error == pytest.approx(1)) == (method == "none")


def test_what_a_method_leaves_alone_counts_as_removed():
    """A slope for each channel keeps `lbyl` from acting."""
    model = convolutions(lambda graph, x: graph.node("PRelu", x, graph.positive(8, 1, 1)))
    _, (group,) = measured(model, restore="lbyl", given=images())
    _, (plain,) = measured(model, given=images())
    assert (
        group.outcome.restored is None
        and terms(group) == terms(plain)
        and group.errors.reconstruction_error == pytest.approx(1)
    )


def test_channels_of_several_producers():
    graph = Builder(seed=5)
    x = graph.input(("N", 3, 8, 6))
    both = graph.node("Add", graph.conv(x, 3, 8, name="producer"), graph.conv(x, 3, 8))
    model = graph.model(graph.conv(graph.node("Relu", both), 8, 4))
    _, (group,) = measured(model, scope="all", given=images())
    assert terms(group) == [None] * 4 and group.errors.ware > 0


def test_values_that_are_not_finite():
    rng = np.random.default_rng(0)
    model = dense(rng.standard_normal((8, 5)), rng.standard_normal(8), activation="Log")
    _, (group,) = measured(model, given={"x": rng.standard_normal((50, 5)).astype(np.float32)})
    assert (*terms(group), group.errors.ware) == (None,) * 5


# ---- the fit that stands for moments


def test_channel_fit_finds_an_affine_relation_and_beats_any_other():
    rng = np.random.default_rng(0)
    kept = 2 + rng.standard_normal((3000, 3)).astype(np.float32)
    wanted, shift = rng.standard_normal((2, 3)), np.array([3.0, -1.0])
    removed = np.array([True, False, False, True, False])
    after = np.zeros((3000, 5), np.float32)
    after[:, ~removed], after[:, removed] = kept, kept @ wanted.T + shift
    mixing, offset = channel_fit(after, removed)
    np.testing.assert_allclose(mixing, wanted, atol=5e-3)
    np.testing.assert_allclose(offset, shift, atol=2e-2)
    noisy = np.maximum(after + rng.standard_normal(after.shape).astype(np.float32), 0)
    mixing, offset = channel_fit(noisy, removed)
    best = error_energies(noisy, noisy, removed, mixing, offset, True)[3]
    for _ in range(20):
        other = mixing + 0.05 * rng.standard_normal(mixing.shape), offset + 0.05 * rng.standard_normal(2)
        assert error_energies(noisy, noisy, removed, *other, True)[3] > best


# ---- WARE


def test_ware_of_a_layer_that_loses_channels_itself():
    graph = Builder(seed=3)
    hidden = graph.node("Relu", graph.gemm(graph.input(("N", 5)), 5, 8, name="first"))
    hidden = graph.node("Relu", graph.gemm(hidden, 8, 6, name="second"))
    model = load(graph.model(graph.gemm(hidden, 6, 3, name="last")))
    x = {"x": graph.rng.standard_normal((50, 5)).astype(np.float32)}
    compressed, groups = measured(model, restore="lbyl", given=x)
    before, after = (each.weights[each.proto.graph.node[2].input[2]] for each in (model, compressed))
    kept = np.isin(before, after)
    assert kept.sum() == 3
    for group, name in zip(groups, ("second", "last"), strict=True):
        (old,), (new,) = (values(each, [name], x) for each in (model, compressed))
        old = old[:, kept] if name == "second" else old
        assert group.errors.ware == pytest.approx(np.abs(new - old).sum() / np.abs(old).sum(), rel=1e-4)


@pytest.mark.parametrize("normalised", [False, True])
def test_ware_on_the_same_samples_is_that_of_the_output(normalised):
    """Behind a BatchNormalization, if one follows."""
    graph = Builder(seed=5)
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 6)), 3, 8, name="producer"))
    hidden = graph.conv(hidden, 8, 4, name="consumer")
    model = load(graph.model(graph.batch_norm(hidden, 4) if normalised else hidden))
    compressed, (group,) = measured(model, restore="lbyl", given=images())
    (output,) = validate(model, compressed, images(), "cpu").outputs
    assert group.errors.ware == pytest.approx(output.ware, rel=1e-4) and output.ware > 0


# ---- in the report


def test_only_where_asked_for():
    for restore, sampled in (("lbyl", False), ("moments", True)):
        report = compress(CNN, 0.4, restore=restore, criterion="l2", validation=False).report
        assert (report.calibration is not None) == sampled
        assert all((*terms(group), group.errors.ware) == (None,) * 5 for group in report.groups)


def test_the_report_in_json():
    report = compress(CNN, 0.4, restore="lbyl", criterion="l1", validation=False, layer_errors=True).report
    record = json.loads(report.to_json())
    assert record["calibration"] == report.calibration is not None
    for group, found in zip(report.groups, record["groups"], strict=True):
        expected = (*terms(group), group.errors.ware)
        assert expected == tuple(found["errors"][name] for name in (*TERMS, "ware"))
        untouched = group.units_after == group.units_before
        assert all((value is None) == untouched for value in (group.errors.residual_error, group.errors.ware))


def test_a_failure_is_a_warning(monkeypatch):
    def fail(*_):
        raise MeasurementFailed("no such kernel")

    monkeypatch.setattr(compression, "measure_errors", fail)
    result = compress(CNN, 0.4, restore="lbyl", criterion="l2", validation=False, layer_errors=True)
    assert result.report.warnings == ("the errors of single layers cannot be measured (no such kernel)",)
    assert LayerErrors().ware is None and all(group.errors.ware is None for group in result.report.groups)


def test_methods_on_a_real_network():
    path = shared("models", "resnet20_cifar10.onnx")
    found = {method: measured(path, 0.3, method, samples=64)[1] for method in RESTORATIONS}
    assert len(found["none"]) == 9
    numbers = {method: np.array([terms(group) for group in groups]) for method, groups in found.items()}
    assert all(np.isfinite(value).all() and (value >= 0).all() for value in numbers.values())
    np.testing.assert_allclose(numbers["none"][:, 3], 1)
    assert (numbers["lbyl"][:, 0] < numbers["none"][:, 0]).all()
    for method in ("none", "lbyl", "neuron-merging"):
        assert (numbers["moments"][:, 3] < numbers[method][:, 3]).all()
    wares = {method: np.array([group.errors.ware for group in groups]) for method, groups in found.items()}
    assert (wares["moments"] < wares["none"]).all()
