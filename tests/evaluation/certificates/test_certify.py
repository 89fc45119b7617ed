"""Certificates of models: what is measured, what is refused, and what is not claimed."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from conftest import ROOT
from graphs import Builder

import lbyl_onnx
from lbyl_onnx import UsageError, ValidationFailed, certify, samples_needed
from lbyl_onnx.calibration.samples_used import SamplesUsed
from lbyl_onnx.evaluation.certificates.intervals import share_at_most
from lbyl_onnx.evaluation.certificates.statements import ACCURACY, CHANGED, MEAN, QUANTILE

CNN = ROOT / "models" / "digits_cnn_folded.onnx"
OTHER = ROOT / "models" / "digits_cnn.onnx"


def digits(start: int = 0, end: int = 599) -> dict[str, np.ndarray]:
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return {"image": data["image"][start:end], "labels": data["labels"][start:end]}


@pytest.fixture(scope="module")
def small():
    """The shipped network, compressed on 100 of the digits."""
    return lbyl_onnx.compress(CNN, 0.4, calibration=digits(0, 100), validation=False)


def pair(end, scale: float = 1.1) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A Gemm of 3 features and what `end` makes of it, and the same with other weights."""
    models = []
    for factor in (1.0, scale):
        graph = Builder()
        weight = graph.constant(factor * np.eye(3) + 0.1)
        models.append(graph.model(end(graph, graph.node("Gemm", graph.input(("N", 3)), weight))))
    return models[0], models[1]


def rows(count: int = 800) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)}


def bounds(certificate) -> dict[str, float | None]:
    return {each.quantity: each.bound for each in certificate.statements}


def test_a_classifier_with_labels_gets_four_statements(small):
    found = certify(CNN, small.compressed, digits(100))
    assert [each.quantity for each in found.statements] == [CHANGED, MEAN, QUANTILE, ACCURACY]
    assert [each.error for each in found.statements] == pytest.approx([0.01 / 4] * 4)
    assert all(each.bound >= each.observed for each in found.statements)
    assert found.samples == 499 and not found.made_up and not found.warnings
    assert "100 samples" in found.record and len(found.premises) == 2
    again = lbyl_onnx.validate(CNN, small.compressed, digits(100))
    changed, _, _, loss = found.statements
    assert changed.observed == pytest.approx(1 - again.outputs[0].top1_agreement)
    assert loss.observed == pytest.approx(again.accuracy_before - again.accuracy_after)
    assert changed.bound == pytest.approx(share_at_most(round(changed.observed * 499), 499, 0.0025))
    assert json.loads(found.to_json())["statements"][0]["quantity"] == CHANGED


def test_more_confidence_and_fewer_samples_claim_less(small):
    plain, sure = (bounds(certify(CNN, small.compressed, digits(100), confidence=p)) for p in (0.9, 0.999))
    fewer = bounds(certify(CNN, small.compressed, digits(100), samples=200, confidence=0.9))
    for quantity in (CHANGED, MEAN, ACCURACY):
        assert plain[quantity] < sure[quantity] and plain[quantity] < fewer[quantity]


def test_labels_belong_to_probabilities_not_to_boxes_in_front_of_them():
    def end(graph, value):
        return graph.matmul(value, 3, 4), graph.node("Softmax", value, axis=1)

    models = []
    for factor in (1.0, -1.0):
        graph = Builder()
        value = graph.node("Gemm", graph.input(("N", 3)), graph.constant(factor * np.eye(3) + 0.1))
        models.append(graph.model(*end(graph, value)))
    labels = np.random.default_rng(1).integers(0, 3, 800)
    found = certify(*models, {**rows(), "labels": labels})
    (loss,) = (each for each in found.statements if each.quantity == ACCURACY)
    probabilities = models[0].graph.output[1].name
    after = lbyl_onnx.validate(*models, {**rows(), "labels": labels})
    assert loss.output == probabilities
    assert loss.observed == pytest.approx(after.accuracy_before - after.accuracy_after)


def test_without_labels_nothing_is_said_of_accuracy(small):
    found = certify(CNN, small.compressed, {"image": digits(100)["image"]})
    assert [each.quantity for each in found.statements] == [CHANGED, MEAN, QUANTILE]
    assert found.statements[0].error == pytest.approx(0.01 / 3)


@pytest.mark.parametrize("overlap", [1, 50])
def test_samples_that_the_compression_used_are_refused(small, overlap):
    with pytest.raises(UsageError, match=f"{overlap} of 300 samples were used in compression"):
        certify(CNN, small.compressed, digits(100 - overlap, 400 - overlap))


def test_samples_that_a_report_names_are_refused(small, tmp_path):
    """Here the model itself says nothing, as another tool has written it anew."""
    proto = small.model
    del proto.metadata_props[:]
    report = tmp_path / "run.json"
    report.write_text(small.report.to_json())
    assert "names no samples" in certify(CNN, proto, digits(50, 150)).record
    for run in (report, str(report), small.report):
        with pytest.raises(UsageError, match="50 of 100 samples were used"):
            certify(CNN, proto, digits(50, 150), run=run)
    assert "100 samples" in certify(CNN, proto, digits(100, 200), run=report).record
    empty = dataclasses.replace(small.report, samples=SamplesUsed())
    assert "report names no samples" in certify(CNN, proto, digits(100, 200), run=empty).record


def test_a_record_with_gaps_is_said_to_have_some(small):
    found = certify(
        CNN, small.compressed, digits(100), run=dataclasses.replace(small.report, samples=SamplesUsed(9000))
    )
    assert "9100 samples" in found.record and "of which 100 can be told" in found.record


def test_equal_samples_count_once(small):
    data = digits(100, 300)
    twice = {name: np.concatenate([array, array[:30]]) for name, array in data.items()}
    found, plain = certify(CNN, small.compressed, twice), certify(CNN, small.compressed, data)
    assert found.samples == 200 and bounds(found) == bounds(plain)
    assert "30 of 230 samples repeat others and count once" in found.warnings[0]


def test_made_up_samples_certify_nothing(small):
    found = certify(CNN, small.compressed, samples=64)
    assert found.made_up and "no certificate for real inputs" in found.premises[-1] and found.samples == 64
    with pytest.raises(UsageError, match="from which nothing follows for real inputs"):
        certify(CNN, small.compressed)


def test_the_same_model_is_as_sure_as_its_samples():
    found = certify(CNN, CNN, digits())
    assert all(each.observed == 0 for each in found.statements)
    assert bounds(found)[CHANGED] == pytest.approx(share_at_most(0, 599, 0.0025)) and bounds(found)[QUANTILE] == 0


def test_too_few_samples_bound_a_lower_quantile_or_none():
    levels = {}
    for count in (599, 200, 30, 5):
        statement = certify(CNN, OTHER, digits(0, count)).statements[2]
        levels[count] = statement.share if statement.bound is not None else None
        assert statement.needed == (None if count == 599 else 597)
    assert levels == {599: 0.99, 200: 0.95, 30: 0.75, 5: None}
    assert "5 samples are too few: 50% take 9, 99% take 597" in statement.reason


def test_unbounded_outputs_get_no_mean():
    def end(graph, x):
        column = graph.node("Unsqueeze", x, graph.constant(np.array([2])))
        return graph.node("Concat", column, column, axis=2)

    found = certify(*pair(end), rows())
    quantile, mean = found.statements
    assert (quantile.quantity, mean.quantity) == (QUANTILE, MEAN)
    assert quantile.measure == "relative error" and 0 < quantile.bound <= 0.2 and quantile.error == pytest.approx(0.01)
    assert mean.bound is None and "the graph puts no bound" in mean.reason


@pytest.mark.parametrize(("operator", "most"), [("Sigmoid", 1.0), ("Tanh", 2.0)])
def test_outputs_with_a_bound_get_a_mean(operator, most):
    def end(graph, x):
        column = graph.node("Unsqueeze", graph.node(operator, x), graph.constant(np.array([2])))
        return graph.node("Transpose", graph.node("Identity", column), perm=[0, 2, 1])

    before, after = pair(end)
    found = certify(before, after, rows())
    assert [each.quantity for each in found.statements] == [MEAN, QUANTILE]
    assert found.statements[0].measure == "mean absolute difference" and found.statements[0].bound < most


def test_probabilities_are_read_by_where_they_come_from():
    """Not by whether the samples happen to look like some."""
    soft = certify(*pair(lambda graph, x: graph.node("Softmax", x)), rows())
    scores = certify(*pair(lambda graph, x: x), rows())
    assert [each.measure for each in (soft.statements[1], scores.statements[1])] == [
        "class probabilities",
        "class probabilities (softmax)",
    ]
    assert soft.statements[1].observed == pytest.approx(scores.statements[1].observed, abs=1e-6)


def test_outputs_without_a_row_for_each_sample_are_left_out():
    def end(graph, x):
        return graph.node("ReduceSum", x, graph.constant(np.array([0])), keepdims=0)

    found = certify(*pair(end), rows(100))
    assert [each.bound for each in found.statements] == [None]
    assert "first axis is not that of the samples" in found.statements[0].reason


def test_outputs_whose_size_follows_values_are_withdrawn_and_keep_their_part_of_the_error():
    models = []
    for shift in (0.0, 0.3):
        graph = Builder()
        scores = graph.node("Gemm", graph.input(("N", 3)), graph.constant(np.eye(3)), graph.constant(np.full(3, shift)))
        models.append(graph.model(scores, graph.node("NonZero", graph.node("Relu", scores))))
    found = certify(*models, rows(200))
    assert [each.bound is None for each in found.statements] == [False, False, False, True]
    assert [each.error for each in found.statements[:3]] == pytest.approx([0.01 / (3 + 4)] * 3)
    assert found.statements[3].reason == "its size follows values"


@pytest.mark.parametrize("confidence", [0.4, 1.0, 99, "sure", float("nan")])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(UsageError, match=r"confidence is .*; expected a probability"):
        certify(CNN, CNN, digits(), confidence=confidence)


def test_wrong_files_are_told(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="is no report"):
        certify(CNN, CNN, digits(), run=tmp_path / "a.json")
    with pytest.raises(UsageError, match="No such file"):
        certify(CNN, CNN, digits(), run=tmp_path / "b.json")
    with pytest.raises(ValidationFailed, match="the inputs differ"):
        certify(CNN, pair(lambda graph, x: x)[0], digits())


def test_a_plan_says_what_fewer_samples_do_not():
    found = samples_needed(0.01, 0.95)
    hits, alone, together = zip(*found.changed, strict=True)
    for count, one, four in zip(hits, alone, together, strict=True):
        assert share_at_most(count, one, 0.05) <= 0.01 < share_at_most(count, one - 1, 0.05)
        assert share_at_most(count, four, 0.0125) <= 0.01 < share_at_most(count, four - 1, 0.0125)
    assert found.quantile == (alone[0], together[0])
    for limit in (0, 1, -1, "x"):
        with pytest.raises(UsageError, match="expected a share"):
            samples_needed(limit)
