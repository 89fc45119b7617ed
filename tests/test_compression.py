"""The whole pipeline: what it returns, what it leaves alone, what it refuses, and published accuracies."""

import json
import re
from dataclasses import replace
from itertools import groupby, pairwise

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import ROOT, shared
from graphs import Builder
from onnx import TensorProto, helper
from uniform import compress

from lbyl_onnx import compression
from lbyl_onnx.calibration import staged_run
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.errors import ModelError, NothingToRemove, UsageError, ValidationFailed
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.inspection import inspect
from lbyl_onnx.evaluation.records import Validation
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run, run_batches
from lbyl_onnx.model.writing import save
from lbyl_onnx.options import PruneOptions, RunOptions, SampleOptions

CNN = ROOT / "models" / "digits_cnn.onnx"
MODELS = sorted((ROOT / "models").glob("*.onnx"))


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


def dense(dtype=np.float32, features=6, hidden=8):
    """x (N, features) → Gemm "first" → Relu → Gemm "last" → 3 values, in any floating type."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = Builder()
    x = graph.input(("N", features), kind=kind)
    for name, inputs, outputs in [("first", features, hidden), ("last", hidden, 3)]:
        weights = [
            graph.constant(graph.rng.standard_normal(shape), dtype, f"{name}.{part}")
            for part, shape in [("weight", (outputs, inputs)), ("bias", outputs)]
        ]
        x = graph.node("Gemm", x, *weights, transB=1, name=name)
        x = graph.node("Relu", x) if name == "first" else x
    return graph.model(x)


def cut_down(model, ratio, **options):
    """`compress` from weights alone, without validation."""
    return compress(model, ratio, **{"restore": "lbyl", "criterion": "l2", "validation": False, **options})


def serialized(model):
    return model.to_proto().SerializeToString(deterministic=True)


# ---- the report


def test_every_field_of_the_report():
    result = cut_down(CNN, 0.5, round_to=8, validation=True)
    report = json.loads(result.report.to_json())
    assert set(report) >= {"input", "output", "groups", "validation", "seconds"}
    for side in ("input", "output"):
        assert set(report[side]) == {"path", "parameters", "macs", "bytes"}
    original, parameters = load(CNN), result.report.input.parameters
    assert report["input"]["path"] == str(CNN) and report["output"]["path"] is None
    assert parameters == sum(array.size for array in original.weights.values() if array.dtype == np.float32)
    assert report["input"]["bytes"] == pytest.approx(CNN.stat().st_size, rel=1e-3)
    assert report["output"]["bytes"] == pytest.approx(len(result.model.SerializeToString()), rel=1e-3)
    for name in ("parameters", "macs", "bytes"):
        assert 0 < report["output"][name] < 0.5 * report["input"][name]
    again = inspect(result.model).input
    assert (again.parameters, again.macs) == (report["output"]["parameters"], report["output"]["macs"])
    assert report["validation"]["provider"] == "cpu" and report["validation"]["samples"] == 128
    assert report["validation"]["outputs"][0]["shape"] == [128, 10] and report["seconds"] > 0


def test_a_ratio_is_spent_where_the_outputs_lose_least():
    """As many multiply-accumulates as go with the same share of every group's units."""
    alike = compress(CNN, 0.3, samples=64, validation=False).report
    spent = compression.compress(CNN, 0.3, samples=64, validation=False).report
    assert spent.output.macs <= alike.output.macs
    assert len({group.units_after / group.units_before for group in spent.groups[:-1]}) > 1
    assert all(group.units_after % 8 == 0 for group in spent.groups[:-1])


def test_one_record_for_each_group():
    groups = cut_down(CNN, 0.5).report.groups
    assert [group.units_before for group in groups] == [32, 64, 64, 64, 10]
    assert [group.units_after for group in groups] == [16, 32, 32, 32, 10]
    for group, following in pairwise(groups):
        assert group.consumers == following.producers
        assert group.frozen_reason is None and group.outcome.restored == "lbyl" and 0 < group.outcome.error < 1
    last = groups[-1]
    assert last.frozen_reason == "output 'logits' of the model"
    assert last.outcome.restored is None and last.outcome.error is None and last.consumers == ()


def test_groups_by_hand():
    report = cut_down(dense(), 0.5, restore="none").report
    first, last = report.groups
    assert (first.name, first.producers, first.consumers) == ("first", ("first",), ("last",))
    assert (first.units_before, first.units_after, first.coupled) == (8, 4, False)
    assert (first.parameters, first.macs) == (8 * 6 + 8 + 3 * 8, 8 * 6 + 3 * 8)
    assert (first.outcome.restored, first.outcome.note, first.outcome.error) == (None, None, None)
    assert (last.units_after, last.frozen_reason) == (3, "output 'last' of the model")
    assert (report.input.parameters, report.input.macs) == (83, 72)
    assert (report.output.parameters, report.output.macs) == (43, 36)


def test_options_are_echoed():
    options = {
        **{"restore": "neuron-merging", "criterion": "random", "lambda1": 0.5, "lambda2": 0.25, "scope": "all"},
        **{"round_to": 2, "include": "fir", "exclude": "none", "seed": 7},
    }
    echoed = cut_down(dense(), 0.5, **options).report.options
    assert echoed.prune == PruneOptions(0.5, allocation="uniform", **options)
    assert echoed.samples == SampleOptions(seed=7) and echoed.run == RunOptions("cpu")
    assert not echoed.validation and not echoed.layer_errors


def test_progress_names_every_stage():
    """In their order, each once for itself and then perhaps for its layers."""
    told = []
    compress(dense(), 0.5, progress=told.append)
    stages = ["analysing", "sampling", "choosing", "planning", "restoring", "validating"]
    assert [progress.stage for progress in told if not progress.layer] == stages
    assert [stage for stage, _ in groupby(told, key=lambda progress: progress.stage)] == stages
    told.clear()
    cut_down(dense(), 0.5, validation=True, progress=told.append)
    assert [progress.stage for progress in told] == ["analysing", "choosing", "planning", "restoring", "validating"]


def test_validation_can_be_left_out():
    report = cut_down(dense(), 0.5).report
    assert report.validation is None and report.warnings == ()


def test_inspection_lists_what_compress_would_cut():
    inspection = inspect(CNN)
    assert [group.name for group in inspection.groups] == [group.name for group in cut_down(CNN, 0.5).report.groups]
    assert all(group.units_before == group.units_after for group in inspection.groups)
    assert json.loads(inspection.to_json())["input"]["path"] == str(CNN)


# ---- what stays


def test_a_model_in_memory_stays_as_it_is():
    proto = onnx.load(CNN)
    before = proto.SerializeToString(deterministic=True)
    result = cut_down(proto, 0.5)
    assert proto.SerializeToString(deterministic=True) == before
    assert result.report.input.path is None
    model = load(CNN)
    cut_down(model, 0.5)
    assert serialized(model) == serialized(load(CNN))


def declared(proto):
    """Everything but weights and what they decide."""
    return (
        [(value.name, value.type.SerializeToString()) for value in (*proto.graph.input, *proto.graph.output)],
        [(entry.domain, entry.version) for entry in proto.opset_import],
        [(entry.key, entry.value) for entry in proto.metadata_props],
        [(node.name, node.op_type, list(node.input), list(node.output)) for node in proto.graph.node],
        [(tensor.name, tensor.data_type) for tensor in proto.graph.initializer],
        (proto.ir_version, proto.producer_name, proto.producer_version, proto.doc_string, proto.graph.name),
    )


@pytest.mark.parametrize("restore", ["none", "lbyl"])
def test_interface_and_metadata_stay(restore):
    proto = onnx.load(CNN)
    helper.set_model_props(proto, {"classes": "0-9", "licence": "CC0"})
    proto.doc_string, proto.producer_version = "digits", "7"
    result = cut_down(proto, 0.5, restore=restore)
    assert declared(result.model) == declared(proto)
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    onnx.checker.check_model(result.model, full_check=True)


def test_any_batch_size_runs():
    session = open_session(load(cut_down(CNN, 0.5).model))
    for batch in (1, 3):
        (logits,) = run(session, {"image": np.zeros((batch, 1, 8, 8), np.float32)})
        assert logits.shape == (batch, 10)


def test_the_same_call_gives_the_same_model():
    first, second = (serialized(cut_down(CNN, 0.5, criterion="random").compressed) for _ in range(2))
    assert first == second
    assert serialized(cut_down(CNN, 0.5, criterion="random", seed=1).compressed) != first


# ---- element types and external data


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-2), (np.float32, 1e-5), (np.float64, 1e-12)])
def test_floating_types(dtype, tolerance):
    """The least neuron is half of another one: restoring is exact, and everything keeps its type."""
    model = load(dense(dtype, features=20))
    for part in ("weight", "bias"):
        value = 4 * model.weights[f"first.{part}"]
        value[5] = value[2] / 16
        model.replace(f"first.{part}", value)
    result = cut_down(model, 0.1, lambda2=0)
    kept = np.delete(model.weights["first.bias"], 5)
    np.testing.assert_array_equal(result.compressed.weights["first.bias"], kept)
    plain = cut_down(model, 0.1, restore="none").compressed
    assert (plain.weights["last.weight"] != result.compressed.weights["last.weight"]).any()
    assert {array.dtype for array in result.compressed.weights.values()} == {np.dtype(dtype)}
    inputs = synthetic_inputs(model, 4, SampleOptions(seed=1))
    (expected,), (found,) = (run(open_session(m), inputs) for m in (model, result.compressed))
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_bfloat16_weights_behind_a_cast():
    """onnxruntime's CPU kernels do not compute in bfloat16, so the graph casts what it stores."""
    graph = Builder()
    x, width = graph.input(), 3
    for name, filters in [("first", 8), ("second", 4)]:
        value = graph.rng.standard_normal((filters, width, 3, 3)).astype(ml_dtypes.bfloat16)
        weight = graph.node("Cast", graph.constant(value, name=f"{name}.weight"), to=TensorProto.FLOAT)
        x, width = graph.node("Conv", x, weight, pads=[1] * 4, name=name), filters
    result = cut_down(graph.model(x), 0.5, validation=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert shapes == {"first.weight": [4, 3, 3, 3], "second.weight": [4, 4, 3, 3]}
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {TensorProto.BFLOAT16}
    assert result.report.validation is not None


def externally_stored(folder):
    path = folder / "model.onnx"
    onnx.save(dense(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(path.read_bytes()) < len(dense().SerializeToString()) + 500
    return path


def test_external_data_stays_external(tmp_path):
    path = externally_stored(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    result = cut_down(path, 0.5)
    assert result.report.input.bytes > (tmp_path / "weights.bin").stat().st_size
    folder = tmp_path / "out"
    folder.mkdir()
    save(result.compressed, folder / "out.onnx")
    stored = onnx.load(folder / "out.onnx", load_external_data=False).graph.initializer
    assert len(stored) == 4 and all(tensor.data_location == TensorProto.EXTERNAL for tensor in stored)
    assert sorted(file.name for file in folder.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.*")} == before
    x = np.ones((2, 6), np.float32)
    written, returned = (run(open_session(load(m)), {"x": x}) for m in (folder / "out.onnx", result.model))
    np.testing.assert_array_equal(written[0], returned[0])
    assert not any(tensor.data_location for tensor in result.model.graph.initializer)


# ---- refusals


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ratio", -0.1, r"^ratio is -0.1; expected a number in \[0, 1\)"),
        ("ratio", 1, r"^ratio is 1; expected a number in \[0, 1\)"),
        ("ratio", float("nan"), "^ratio is nan"),
        ("restore", "magic", "^restore 'magic' is unknown; expected one of .*lbyl"),
        ("criterion", "l3", "^criterion 'l3' is unknown; expected one of .*l1, l2"),
        ("scope", "none", "^scope 'none' is unknown; expected one of chains, all"),
        ("round_to", 0, "^round_to is 0; expected a whole number of at least 1"),
        ("lambda1", -1, "^lambda1 is -1; expected a finite number"),
        ("lambda2", float("inf"), "^lambda2 is inf; expected a finite number"),
        ("lambda2", float("nan"), "^lambda2 is nan"),
        ("include", "(", r"^include '\(' is not a regular expression"),
        ("provider", "tpu", "^provider 'tpu' is unknown"),
    ],
)
def test_options_out_of_range(option, value, message):
    with pytest.raises(UsageError, match=message):
        cut_down(dense(), **{"ratio": 0.5, option: value})


def test_options_are_checked_before_the_model_is_read(tmp_path):
    with pytest.raises(UsageError, match=r"^ratio is 2;"):
        cut_down(tmp_path / "missing.onnx", 2)
    with pytest.raises(ModelError, match=r"missing\.onnx: no such file"):
        cut_down(tmp_path / "missing.onnx", 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "^the model: nothing to remove at ratio 0; ask for more$"),
        ({"ratio": 0.5, "round_to": 8}, "0.5, rounded to multiples of 8; ask for more, or give a smaller --round-to$"),
        ({"ratio": 0.5, "exclude": "first"}, "nothing to remove.*matched by --exclude"),
    ],
)
def test_nothing_to_remove(options, message):
    with pytest.raises(NothingToRemove, match=message):
        cut_down(dense(), **options)


def test_a_single_layer_has_nothing_to_remove():
    graph = Builder()
    with pytest.raises(NothingToRemove, match="output 'only' of the model"):
        cut_down(graph.model(graph.conv(graph.input(), 3, 8, name="only")), 0.5)
    graph = Builder()
    with pytest.raises(NothingToRemove, match="no Conv, Gemm or MatMul weight"):
        cut_down(graph.model(graph.node("Relu", graph.input())), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "nothing to remove at ratio 0, rounded to what kernels want; .* smaller --round-to$"),
        ({"target": {"macs": 1}}, "nothing to remove at macs=1, rounded to what kernels want; ask for more, or"),
        ({"target": {"macs": 0.01}}, r"macs cannot be brought to 18,540\.8; .* [\d,]+ \(0\.\d+ of the original's\)$"),
        ({"target": {"drop": 0}}, "no unit can go within 0% of accuracy; the nearest is expected to lose up to"),
    ],
)
def test_nothing_to_remove_by_sensitivity(options, message):
    with pytest.raises(NothingToRemove, match=rf"^digits_cnn\.onnx: {message}"):
        compression.compress(CNN, samples=16, validation=False, **options)


def test_the_name_of_the_file_is_told():
    with pytest.raises(NothingToRemove, match=r"^digits_cnn\.onnx: nothing to remove"):
        cut_down(CNN, 0)


@pytest.mark.filterwarnings("error")
def test_an_overflow_of_float16_is_caught():
    """The consumer's weights double, which is more than float16 holds."""
    proto = dense(np.float16)
    model = load(proto)
    model.replace("first.weight", np.full((8, 6), 0.5, np.float16))
    model.replace("last.weight", np.full((3, 8), 4e4, np.float16))
    with pytest.raises(ValidationFailed, match=r"weight 'last.weight' overflows float16 .*--restore none"):
        cut_down(model, 0.5, restore="neuron-merging")
    cut_down(model, 0.5, restore="none")


def test_a_result_that_cannot_be_compared(monkeypatch):
    def refuse(*arguments, **options):
        raise ModelError("no such input")

    monkeypatch.setattr(compression, "compare", refuse)
    with pytest.raises(ValidationFailed, match="the result cannot be compared with the original: no such input"):
        cut_down(dense(), 0.5, validation=True)


def test_samples_that_are_not_used_are_said_so():
    samples = {"x": np.ones((4, 6), np.float32)}
    (warning,) = cut_down(dense(), 0.5, calibration=samples).report.warnings
    assert warning == "the calibration samples are not used by --restore lbyl with --criterion l2"


def test_samples_that_the_model_does_not_take():
    graph = Builder()
    hidden = graph.node("Gather", graph.weight(10, 6), graph.input(("N", 3), "ids", TensorProto.INT64))
    hidden = graph.node("Relu", graph.matmul(hidden, 6, 8))
    model, ids = graph.model(graph.matmul(hidden, 8, 2)), np.full((4, 3), 10)
    with pytest.raises(UsageError, match=r"does not take the calibration samples \(4 samples of given arrays\): .*10"):
        compress(model, 0.5, calibration={"ids": ids})


# ---- where activations cannot be measured


def refused_while(monkeypatch, *stages):
    """`compress` with onnxruntime refusing every stretch of a model in these stages."""
    reached, opened = [], staged_run.open_session

    def refuse(*arguments, **options):
        if reached[-1].stage in stages:
            raise ModelError("no such kernel")
        return opened(*arguments, **options)

    monkeypatch.setattr(staged_run, "open_session", refuse)

    def report(**options):
        return compress(CNN, 0.5, validation=False, progress=reached.append, **options).report

    return report


def told(stand_in):
    return f"activations cannot be measured (no such kernel); {stand_in} was used instead"


def methods(report):
    """Criteria and restorations of the groups that lost units."""
    cut = [group for group in report.groups if group.units_after < group.units_before]
    assert len(cut) == 4
    return {group.criterion for group in cut}, {group.outcome.restored for group in cut}


@pytest.mark.parametrize("criterion", ["obs", "l1", "random"])
def test_a_restoration_without_activations_leaves_the_criterion(monkeypatch, criterion):
    report = refused_while(monkeypatch, "restoring")(criterion=criterion)
    assert methods(report) == ({criterion}, {"lbyl"})
    assert report.fallbacks == (told("lbyl"),) and told("lbyl") in report.warnings
    assert (report.calibration is None) == (criterion != "obs")
    assert report.options.prune == PruneOptions(0.5, criterion, allocation="uniform", round_to=1)


@pytest.mark.parametrize("restore", ["moments", "none", "neuron-merging"])
def test_a_criterion_without_activations_leaves_the_restoration(monkeypatch, restore):
    report = refused_while(monkeypatch, "choosing")(restore=restore)
    assert methods(report) == ({"l2"}, {None if restore == "none" else restore})
    assert report.fallbacks == (told("l2"),) and told("l2") in report.warnings
    assert (report.calibration is None) == (restore != "moments")
    assert report.options.prune == PruneOptions(0.5, restore=restore, allocation="uniform", round_to=1)


def test_nothing_can_be_measured(monkeypatch):
    report = refused_while(monkeypatch, "choosing", "restoring", "measuring")(layer_errors=True)
    assert methods(report) == ({"l2"}, {"lbyl"}) and report.calibration is None
    errors = "the errors of single layers cannot be measured (no such kernel)"
    assert report.fallbacks == (told("l2"), told("lbyl"), errors)


def test_a_stand_in_does_what_it_does_when_asked_for(monkeypatch):
    asked = cut_down(CNN, 0.5, restore="lbyl", criterion="l2")
    measured = refused_while(monkeypatch, "choosing", "restoring")()
    assert [group.outcome for group in measured.groups] == [group.outcome for group in asked.report.groups]
    assert measured.output == asked.report.output


def test_nothing_stands_in_for_what_can_be_measured():
    report = compress(CNN, 0.5, samples=64, validation=False).report
    assert report.fallbacks == () and methods(report) == ({"obs"}, {"moments"})


# ---- speed


MEASURED = Validation("cpu", "made up", 16, (), 1, latency_before_ms=2.0, latency_after_ms=2.5)


@pytest.mark.parametrize(
    ("round_to", "advice"),
    [
        (1, r"try --round-to 8 \(or 16\)"),
        (4, r"try --round-to 8 \(or 16\)"),
        (8, "try --round-to 16, or ask for --target latency=0.9"),
    ],
)
def test_a_result_that_is_not_faster_comes_with_advice(monkeypatch, round_to, advice):
    monkeypatch.setattr(compression, "compare", lambda *arguments, **options: MEASURED)
    (warning,) = cut_down(dense(hidden=32), 0.5, round_to=round_to, validation=True).report.warnings
    assert warning.startswith("the result is not faster: 2.5 ms, original 2 ms")
    assert re.search(advice, warning)


def test_a_result_that_is_hardly_faster(monkeypatch):
    monkeypatch.setattr(compression, "compare", lambda *arguments: replace(MEASURED, latency_after_ms=1.98))
    (warning,) = cut_down(dense(), 0.5, validation=True).report.warnings
    assert warning.startswith("the result is hardly faster: 1.98 ms, original 2 ms")


def test_a_faster_result_has_no_warnings(monkeypatch):
    faster = replace(MEASURED, latency_after_ms=1.5)
    monkeypatch.setattr(compression, "compare", lambda *arguments, **options: faster)
    assert cut_down(dense(), 0.5, validation=True).report.warnings == ()


# ---- accuracies on the shared models


def accuracy(model, images, labels):
    name = model.proto.graph.input[0].name
    (logits,) = run_batches(open_session(model), {name: images})
    return 100 * float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_restoring_brings_accuracy_back(path):
    model = load(path)
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        images, labels = data["image"], data["labels"]
    assert accuracy(model, images, labels) > 97
    none, merged, lbyl = (
        accuracy(cut_down(model, 0.3, restore=restore).compressed, images, labels)
        for restore in ("none", "neuron-merging", "lbyl")
    )
    assert min(merged, lbyl) > none + 10


def normalised(name, mean, std):
    """Images of a data file, float32 (samples, channels, height, width), and their labels."""
    with np.load(shared("data", f"{name}.npz")) as data:
        pixels, labels = data["images"].astype(np.float32) / 255, data["labels"]
    pixels = pixels.reshape(*pixels.shape[:3], -1)
    scaled = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


@pytest.mark.parametrize(
    ("ratio", "lambda2", "published"), [(0.5, 0.3, 88.83), (0.6, 0.6, 87.75), (0.7, 0.3, 83.92), (0.8, 1e-6, 78.05)]
)
def test_published_accuracies_of_lenet(ratio, lambda2, published):
    """arXiv 2502.08474, LeNet-300-100 on the test set of Fashion-MNIST."""
    model = load(shared("models", "lenet_300_100_fashion.onnx"))
    images, labels = normalised("fashion_mnist_test", 0.5, 0.5)
    assert len(labels) == 10_000
    result = cut_down(model, ratio, criterion="l2", restore="lbyl", lambda1=0.0, lambda2=lambda2)
    assert accuracy(result.compressed, images, labels) == pytest.approx(published, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet56_cifar10", "resnet56_cifar10_folded"])
def test_the_default_penalties_suit_a_network_and_its_folded_twin(name):
    model = load(shared("models", f"{name}.onnx"))
    images, labels = normalised("cifar10_eval", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    plain, restored = (cut_down(model, 0.3, restore=restore).compressed for restore in ("none", "lbyl"))
    assert accuracy(restored, images, labels) >= accuracy(plain, images, labels) + 7
