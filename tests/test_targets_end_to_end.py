"""Budgets from the outside: `compress(target=...)` and `--target`, what they give and how they are refused."""

import json
import re

import command_line
import numpy as np
import onnx
import pytest
from command_line import CNN, assert_refused, files
from graphs import Builder

from lbyl_onnx.calibration import staged_run
from lbyl_onnx.compression import compress
from lbyl_onnx.errors import ModelError, NothingToRemove, UsageError
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


# ---- large ratios


def macs_of(model, ratio, **options):
    result = compress(model, ratio, samples=64, validation=False, **options)
    return inspect(result.model).input.macs


@pytest.mark.parametrize("ratio", [0.7, 0.8])
def test_large_ratios_save_as_much_as_all_groups_alike(ratio):
    assert macs_of(CNN, ratio) <= macs_of(CNN, ratio, allocation="uniform")


def test_a_ratio_goes_as_far_as_it_is_in_reach():
    assert macs_of(CNN, 0.95) <= macs_of(CNN, 0.9) < macs_of(CNN, 0.8)


@pytest.mark.parametrize(("ratio", "left"), [(0.2, 4), (0.5, 3), (0.8, 1)])
def test_small_groups_lose_units_where_only_they_can(ratio, left):
    """Six hidden units."""
    graph = Builder()
    hidden = graph.node("Relu", graph.gemm(graph.input(("N", 10)), 10, 6, name="hidden"))
    model = graph.model(graph.gemm(hidden, 6, 3))
    report = compress(model, ratio, samples=64, validation=False).report
    assert report.groups[0].units_after == left
    assert report.output.macs <= macs_of(model, ratio, allocation="uniform")


# ---- what cannot be measured


@pytest.mark.parametrize("asked", [{"ratio": 0.3}, {"target": {"macs": 0.7}}])
def test_groups_that_obs_cannot_measure_lose_units(asked):
    """The only consumer has convolution groups."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 32, name="producer"))
    model = graph.model(graph.conv(hidden, 32, 8, group=2, name="consumer"))
    report = compress(model, samples=32, validation=False, **asked).report
    assert report.output.macs <= 0.7 * report.input.macs
    assert report.groups[0].units_after < report.groups[0].units_before and report.groups[0].criterion == "l2"
    assert "1 group has no consumer whose input obs can measure; it was ranked by l2" in report.warnings


@pytest.fixture
def unmeasurable(monkeypatch):
    """onnxruntime refuses every stretch of a model."""

    def refuse(*_, **__):
        raise ModelError("no such kernel")

    monkeypatch.setattr(staged_run, "open_session", refuse)


@pytest.mark.parametrize(
    ("asked", "most"), [({"target": {"drop": "10%"}}, 0.95), ({"target": {"macs": 0.6}}, 0.6), ({"ratio": 0.4}, 0.6)]
)
def test_all_groups_lose_the_same_share_where_activations_cannot_be_measured(unmeasurable, asked, most):
    report = compress(CNN, samples=64, validation=False, **asked).report
    cut = [group for group in report.groups if group.units_after < group.units_before]
    assert len(cut) == 4 and {group.criterion for group in cut} == {"l2"}
    shares = [group.units_after / group.units_before for group in cut]
    assert max(shares) - min(shares) <= 1 / 32
    assert report.output.macs <= most * report.input.macs
    assert report.fallbacks == (
        "activations cannot be measured (no such kernel); l2 was used instead",
        "activations cannot be measured (no such kernel); lbyl was used instead",
    )


def test_a_loss_of_one_point_is_held_to_where_activations_cannot_be_measured(unmeasurable):
    """The default; weights alone restore too little of this model."""
    with pytest.raises(NothingToRemove, match=r"no unit can go within 1% of accuracy; the nearest is expected"):
        compress(CNN, samples=64, validation=False)


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
        (["macs=0.5", " macs=0.5"], "--target ' macs=0.5' is given twice"),
        (["macs =0.5", "macs= 0.5"], "--target 'macs= 0.5' is given twice"),
        (["macs=0,8"], "--target macs=0,8 is no budget"),
        (["macs=1e308G"], "--target macs=1e308G is no budget"),
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
    assert_refused(refused, 4, "no unit can go within 0% of accuracy")
    assert files(tmp_path) == []
