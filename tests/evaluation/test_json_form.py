"""Records as JSON and back."""

import json
import math
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import onnxruntime as ort
import pytest
from conftest import ROOT
from graphs import Builder
from uniform import compress

import lbyl_onnx
from lbyl_onnx.budgets import Budget
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.json_form import from_json, to_json
from lbyl_onnx.evaluation.records import Report
from lbyl_onnx.options import Normalisation, Options, PruneOptions, RunOptions, SampleOptions

CNN = ROOT / "models" / "digits_cnn.onnx"
DIGITS = ROOT / "models" / "digits_eval.npz"


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)


def again(report):
    """The report, once written and read."""
    return Report.from_json(report.to_json())


def test_a_report_says_what_ran_and_what_was_asked_for():
    scale, shapes = Normalisation((0.5,), (0.25,)), {"image": (1, 1, 8, 8)}
    prune = {"restore": "lbyl", "lambda2": 0.5, "scope": "all", "round_to": 4, "exclude": "layer3", "seed": 2}
    prune["allocation"] = "uniform"
    given = {"target": {"macs": 0.9, "bytes": "400 kB"}, "samples": 80, "shapes": shapes, "threads": 1}
    report = compress(CNN, 0.25, **prune, **given, normalisation=scale, layer_errors=True).report
    record = json.loads(report.to_json())
    assert record["versions"] == {
        **{"lbyl_onnx": version("lbyl-onnx"), "onnxruntime": ort.__version__},
        **{"provider": report.versions.provider},
    }
    assert report.versions.provider in ("cpu", "cuda") and report.options.run.provider == report.versions.provider
    samples = SampleOptions("auto", 80, shapes, scale, seed=2)
    runtime = RunOptions(report.versions.provider, threads=1)
    targets = Budget("macs", 0.9, share=True), Budget("bytes", 400_000, share=False)
    assert report.options == Options(PruneOptions(0.25, **prune, targets=targets), samples, runtime, layer_errors=True)
    assert record["options"]["prune"]["lambda2"] == 0.5 and record["options"]["samples"]["normalisation"]["std"] == [
        0.25
    ]
    assert again(report) == report and again(report).options == report.options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restore": "none", "criterion": "l1", "validation": False},
        {"restore": "moments", "layer_errors": True, "samples": 64},
        {"calibration": str(DIGITS), "samples": np.int64(64), "round_to": np.int32(8), "lambda1": np.float32(0.1)},
        {"calibration": DIGITS, "restore": "neuron-merging", "include": "layer[23]", "normalisation": None},
        {"shapes": {"image": [1, 1, 8, 8]}, "seed": np.uint8(3), "validation": False},
    ],
)
def test_a_report_is_the_same_once_written_and_read(options):
    report = compress(CNN, **{"ratio": np.float64(0.4), **options}).report
    assert again(report) == report
    assert again(report).to_json() == report.to_json()
    assert isinstance(again(report), lbyl_onnx.Report)


def test_given_arrays_are_no_part_of_the_record():
    with np.load(DIGITS) as data:
        report = compress(CNN, 0.4, calibration={"image": data["image"][:64]}, validation=False).report
    assert again(report) == report and report.options.samples.calibration == "arrays"


def test_infinity_is_null_in_json():
    validation = compress(CNN, 0.4, restore="none", criterion="l1").report.validation
    (output,) = validation.outputs
    equal = replace(validation, outputs=(replace(output, sqnr_db=math.inf),), warnings=("so",), accuracy_before=0.5)
    record = json.loads(to_json(equal), parse_constant=pytest.fail)
    assert record["outputs"][0]["sqnr_db"] is None
    assert from_json(type(equal), to_json(equal)) == equal


def test_minus_infinity_is_text_in_json():
    """It is the SQNR of an output that is zero in the original alone."""

    def scaled(factor):
        graph = Builder()
        return graph.model(graph.node("Mul", graph.input(), graph.constant(factor), name="y"))

    found = lbyl_onnx.validate(scaled(0.0), scaled(1.0), samples=4)
    assert [output.sqnr_db for output in found.outputs] == [-math.inf]
    record = json.loads(to_json(found), parse_constant=pytest.fail)
    assert record["outputs"][0]["sqnr_db"] == "-Infinity"
    assert from_json(type(found), to_json(found)) == found


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"versions": 3}', "not JSON"])
def test_what_is_no_report(text):
    with pytest.raises(ValueError):
        Report.from_json(text)


def test_a_report_of_another_version_is_refused():
    report = compress(CNN, 0.4, restore="none", criterion="l1", validation=False).report
    record = json.loads(report.to_json())
    del record["options"]["prune"]
    with pytest.raises(ValueError, match="not a report of this version"):
        Report.from_json(json.dumps(record))
