"""Budgets from the outside: `compress(target=...)` and `--target`, what they give and how they are refused."""

import json
import re

import command_line
import numpy as np
import onnx
import pytest
from command_line import CNN, assert_refused, files
from graphs import Builder

from lbyl_onnx.compression import compress
from lbyl_onnx.errors import NothingToRemove, UsageError
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.inspection import inspect
from lbyl_onnx.selection import planner

lbyl = command_line.lbyl

FIELDS = {"macs": "macs", "params": "parameters", "bytes": "bytes"}


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


def network():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 32, name="first"))
    hidden = graph.node("Relu", graph.gemm(graph.node("Flatten", hidden), 32 * 18, 48, name="second"))
    return graph.model(graph.gemm(hidden, 48, 5))


def made(**options):
    """The report, and the sizes that the model is found to have."""
    result = compress(network(), samples=64, validation=False, **options)
    return result.report, inspect(result.model).input


# ---- from Python


@pytest.mark.parametrize(
    "target", [{"macs": 0.8}, {"params": 0.6}, {"bytes": 0.7}, {"macs": 0.9, "params": 0.5}, {"bytes": "60kB"}]
)
@pytest.mark.parametrize("options", [{}, {"criterion": "l2"}, {"allocation": "uniform"}])
def test_targets_hold_for_the_model_that_is_returned(target, options):
    report, found = made(target=target, **options)
    for name, value in target.items():
        limit = 60e3 if isinstance(value, str) else value * getattr(report.input, FIELDS[name])
        assert getattr(found, FIELDS[name]) <= limit * 1.01
        assert name == "bytes" or getattr(found, FIELDS[name]) <= limit
    assert (found.macs, found.parameters) == (report.output.macs, report.output.parameters)
    assert report.options.prune.ratio is None and [each.name for each in report.options.prune.targets] == list(target)


def test_no_more_goes_than_a_target_asks_for():
    """One block of 8 of the units of either layer is less than a fifth of the work."""
    report, found = made(target={"macs": 0.8})
    assert 0.6 * report.input.macs < found.macs


def test_a_ratio_and_targets_hold_together():
    _, ratio = made(ratio=0.25)
    report, both = made(ratio=0.25, target={"params": 0.4})
    assert both.parameters <= 0.4 * report.input.parameters
    assert both.macs <= ratio.macs * 1.2


def test_a_latency_that_is_predicted_is_kept(monkeypatch):
    class OneForEachUnit:
        def __init__(self, analysis, options, movable):
            self.units = sum(group.units for group in analysis.groups)

        def milliseconds(self, removed):
            return self.units - np.asarray(removed, float).sum(axis=-1)

    monkeypatch.setattr(planner, "LatencyModel", OneForEachUnit)
    report, _ = made(target={"latency": "60ms"})
    assert sum(group.units_after for group in report.groups) <= 60


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"mac": 0.5}, "target 'mac' is unknown; expected one of macs, params, bytes, latency, drop"),
        ({"macs": "a lot"}, "target macs=a lot is no budget; expected a share of the original's such as 0.8"),
        ({"macs": -1}, "target macs=-1 is no budget"),
        ({"bytes": "4"}, "target bytes=4 has no unit"),
        (0.5, "target is a float; expected values by name"),
    ],
)
def test_what_is_no_target_is_refused(target, words):
    with pytest.raises(UsageError, match=f"^{re.escape(words)}"):
        compress(network(), target=target)


def test_a_target_out_of_reach_is_refused_with_the_nearest():
    with pytest.raises(NothingToRemove, match=r"params cannot be brought to .* the least within reach is .* of the"):
        made(target={"macs": 0.9, "params": 0.001})


def test_a_target_that_holds_already_removes_nothing():
    with pytest.raises(NothingToRemove):
        made(target={"macs": 1})


# ---- from the command line


@pytest.fixture
def model(tmp_path):
    onnx.save(network(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx", tmp_path / "out.onnx"


def test_targets_on_the_command_line(lbyl, model, tmp_path):
    asked = ["--target", "macs=0.8", "--target", "params=0.6", "--target", "bytes=100kB"]
    code, printed, _ = lbyl("compress", *model, *asked, "--samples", 64, "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0 and "units" in printed
    assert report["output"]["macs"] <= 0.8 * report["input"]["macs"]
    assert report["output"]["parameters"] <= 0.6 * report["input"]["parameters"]
    assert model[1].stat().st_size <= 100e3
    assert [(each["name"], each["share"]) for each in report["options"]["prune"]["targets"]] == [
        ("macs", True),
        ("params", True),
        ("bytes", False),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["macs"], "--target 'macs' is not of the form NAME=VALUE"),
        (["size=0.5"], "--target 'size' is unknown; expected one of macs, params, bytes, latency, drop"),
        (["macs=much"], "--target macs=much is no budget"),
        (["macs=0"], "--target macs=0 is no budget"),
        (["latency=5"], "--target latency=5 has no unit"),
        (["macs=0.8", "macs=0.7"], "--target 'macs=0.7' is given twice"),
    ],
)
def test_wrong_targets_are_usage_errors(lbyl, model, tmp_path, arguments, words):
    asked = [part for text in arguments for part in ("--target", text)]
    assert_refused(lbyl("compress", *model, *asked), 2, words)
    assert files(tmp_path) == ["in.onnx"]


@pytest.mark.parametrize("asked", [["--target", "macs=0.001"], ["--target", "macs=0.9", "--target", "bytes=10b"]])
def test_out_of_reach_nothing_is_written(lbyl, model, tmp_path, asked):
    refused = lbyl("compress", *model, *asked, "--samples", 64, "--report", tmp_path / "report.json")
    assert_refused(refused, 4, "cannot be brought to", "the least within reach is")
    assert files(tmp_path) == ["in.onnx"]


def test_a_loss_that_nothing_keeps_is_refused(lbyl, tmp_path):
    refused = lbyl("compress", CNN, tmp_path / "out.onnx", "--target", "drop=0%", "--samples", 64)
    assert_refused(refused, 4, "no unit can go within 0 points of accuracy")
    assert files(tmp_path) == []
