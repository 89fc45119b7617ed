"""What Python users call: defaults, what each function takes, and what it says of anything else."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import ROOT
from uniform import compress

import lbyl_onnx
from lbyl_onnx import Normalisation, UsageError
from lbyl_onnx.budgets import Budget
from lbyl_onnx.evaluation.verdict import INTACT
from lbyl_onnx.options import PruneOptions

CNN = ROOT / "models" / "digits_cnn.onnx"
SCREEN = 2000
"""Characters that fit a screen."""


@pytest.fixture(scope="module")
def result():
    return compress(CNN)


@pytest.mark.slow
def test_compress_needs_nothing_but_a_model():
    """A point of accuracy is spent, and blocks of units go, as kernels want them."""
    report = lbyl_onnx.compress(CNN).report
    assert report.options.prune == PruneOptions(targets=(Budget("drop", 1.0, share=False),))
    assert report.output.macs < 0.9 * report.input.macs and report.validation.verdict.level == INTACT
    assert all(group.units_after % 8 == 0 for group in report.groups[:-1]) and report.groups[-1].units_after == 10


@pytest.mark.parametrize("kind", ["result", "model", "proto"])
def test_save_takes_what_there_is(tmp_path, result, kind):
    saved = {"result": result, "model": result.compressed, "proto": result.model}[kind]
    lbyl_onnx.save(saved, tmp_path / "out.onnx")
    lbyl_onnx.save(saved, str(tmp_path / "again.onnx"))
    first, second = (lbyl_onnx.load(tmp_path / name) for name in ("out.onnx", "again.onnx"))
    for name, array in result.compressed.weights.items():
        np.testing.assert_array_equal(first.weights[name], array)
        np.testing.assert_array_equal(second.weights[name], array)


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "proto", "model"])
def test_load_takes_what_there_is(kind):
    source = {
        **{"path": CNN, "text": str(CNN), "bytes": CNN.read_bytes(), "proto": onnx.load(CNN)},
        **{"model": lbyl_onnx.load(CNN)},
    }[kind]
    assert len(lbyl_onnx.load(source).proto.graph.node) == len(onnx.load(CNN).graph.node)


# ---- anything else


def raised(function, *arguments, **options):
    with pytest.raises(UsageError) as caught:
        function(*arguments, **options)
    assert str(caught.value).startswith(f"{caught.value.parameter} ") and "--" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.parameter


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("ratio", "0.3"),
        ("ratio", [0.3]),
        ("ratio", True),
        ("target", "macs=0.8"),
        ("target", ["macs=0.8"]),
        ("target", {"speed": 0.8}),
        ("target", {0: 0.8}),
        ("target", {"macs": None}),
        ("target", {"macs": True}),
        ("target", {"bytes": "4"}),
        ("allocation", "greedy"),
        ("allocation", None),
        ("threads", 1.5),
        ("threads", "2"),
        ("threads", 0),
        ("restore", ["lbyl"]),
        ("restore", None),
        ("criterion", {"l1"}),
        ("criterion", 1),
        ("scope", None),
        ("round_to", 2.0),
        ("round_to", "8"),
        ("samples", 1.5),
        ("seed", None),
        ("lambda1", "1"),
        ("lambda2", None),
        ("include", 3),
        ("exclude", ["conv"]),
        ("calibration", 3),
        ("calibration", None),
        ("calibration", np.zeros((4, 1, 8, 8), np.float32)),
        ("shapes", [1, 1, 8, 8]),
        ("shapes", {"image": 8}),
        ("shapes", {"image": "1x1x8x8"}),
        ("shapes", {0: (1, 1, 8, 8)}),
        ("normalisation", "imagenet"),
        ("normalisation", (0.5, 0.5)),
        ("provider", ["cpu"]),
        ("custom_ops_library", 3),
    ],
)
def test_compress_names_the_wrong_parameter(parameter, value):
    """Whatever method would have read it."""
    for method in ({}, {"restore": "none", "criterion": "l1"}):
        assert raised(lbyl_onnx.compress, CNN, **{**method, parameter: value}) == parameter


@pytest.mark.parametrize("value", [None, 3, ["model.onnx"], np.zeros(3)])
def test_what_is_no_model(tmp_path, result, value):
    assert raised(lbyl_onnx.compress, value) == "model"
    assert raised(lbyl_onnx.inspect, value) == "model"
    assert raised(lbyl_onnx.save, value, tmp_path / "out.onnx") == "model"
    assert raised(lbyl_onnx.save, result, value) == "path"
    assert raised(lbyl_onnx.validate, value, CNN) == "original"
    assert raised(lbyl_onnx.validate, CNN, value) == "compressed"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("data", 3),
        ("data", [np.zeros((4, 1, 8, 8), np.float32)]),
        ("samples", "5"),
        ("seed", 0.5),
        ("shapes", ["image"]),
        ("normalisation", "imagenet"),
        ("provider", None),
        ("custom_ops_library", 3),
    ],
)
def test_validate_names_the_wrong_parameter(parameter, value):
    assert raised(lbyl_onnx.validate, CNN, CNN, **{parameter: value}) == parameter


def test_inspect_names_the_wrong_parameter():
    assert raised(lbyl_onnx.inspect, CNN, shapes=[8]) == "shapes"
    assert raised(lbyl_onnx.inspect, CNN, custom_ops_library=3) == "custom_ops_library"


@pytest.mark.parametrize(
    ("mean", "std", "parameter"),
    [
        (0.5, (0.5,), "mean"),
        ((0.5,), "0.5", "std"),
        ((), (), "mean"),
        (("a",), (0.5,), "mean"),
        ((0.5,), (0.0,), "std"),
        ((0.5,), (float("nan"),), "std"),
        ((float("inf"),), (0.5,), "mean"),
        ((0.5, 0.5), (0.5,), "std"),
    ],
)
def test_a_normalisation_checks_itself(mean, std, parameter):
    assert raised(Normalisation, mean, std) == parameter


# ---- at a prompt


def test_results_fit_a_screen(result):
    inspection, report = lbyl_onnx.inspect(CNN), result.report
    many = replace(report.validation, outputs=50 * report.validation.outputs)
    for shown in (result, report, result.compressed, inspection, report.validation, many):
        assert 0 < len(repr(shown)) < SCREEN, type(shown).__name__
    assert "5 groups" in repr(inspection) and str(CNN) in repr(inspection)
    assert f"{report.output.parameters:,}" in repr(result)


EXAMPLE = """
import onnx

import lbyl_onnx

result = lbyl_onnx.compress("model.onnx", ratio=0.4, round_to=8)
lbyl_onnx.compress("model.onnx", target={"macs": 0.8, "bytes": "4MB"}, allocation="sensitivity", threads=2)
lbyl_onnx.save(result, "small.onnx")
lbyl_onnx.save(result.compressed, "small.onnx")
proto: onnx.ModelProto = result.model
lbyl_onnx.save(proto, "small.onnx", force=True)
if result.report.validation is not None:
    print(result.report.validation.speedup)
text: str = result.report.to_json()
report: lbyl_onnx.Report = lbyl_onnx.Report.from_json(text)

for group in lbyl_onnx.inspect("model.onnx").groups:
    name: str = group.name
found: lbyl_onnx.Validation = lbyl_onnx.validate("model.onnx", "small.onnx", data="eval.npz")
scale = lbyl_onnx.Normalisation(mean=(0.5,), std=(0.5,))
lbyl_onnx.compress(lbyl_onnx.load("model.onnx"), calibration="photos", samples=64, normalisation=scale)
version: str = lbyl_onnx.__version__
"""


@pytest.mark.slow
def test_users_types_are_checked(tmp_path):
    pytest.importorskip("mypy")

    def mypy(text):
        (tmp_path / "example.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "example.py"]
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return found.returncode, found.stdout

    assert mypy(EXAMPLE) == (0, "Success: no issues found in 1 source file\n")
    code, told = mypy("import lbyl_onnx\n\nlbyl_onnx.compress(3, ratio='much')\nlbyl_onnx.shrink\n")
    assert code == 1 and told.count("[arg-type]") == 2 and told.count("[attr-defined]") == 1
