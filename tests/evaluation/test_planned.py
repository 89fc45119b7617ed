"""What a report holds of its plan: curves, the frontier, and what was expected."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import uniform
from conftest import ROOT

import lbyl_onnx
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.planned import PlannedGroup, planned
from lbyl_onnx.evaluation.records import Report
from lbyl_onnx.selection.planner import Planner

CNN = ROOT / "models" / "digits_cnn_folded.onnx"
SAMPLES = 64


@pytest.fixture(autouse=True, scope="module")
def short_latencies():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latency, "LATENCY_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def report():
    return lbyl_onnx.compress(CNN, target={"macs": 0.8}, samples=SAMPLES, round_to=8).report


@pytest.fixture(scope="module")
def plan():
    return lbyl_onnx.plan(CNN, target={"macs": 0.8}, samples=SAMPLES, round_to=8)


def test_a_report_holds_what_plan_would_have_said(report, plan):
    assert [group.removed for group in report.planned.groups] == [group.removed for group in plan.groups]
    assert [group.curve for group in report.planned.groups] == [group.curve for group in plan.groups]
    found = report.planned.frontier
    assert len(found) > 3 and [point.share for point in found] == [point.share for point in plan.frontier][: len(found)]
    assert found[0] == replace(plan.frontier[0], measured=None)  # heavier budgets are seen otherwise after two rounds


def test_it_says_what_was_expected_and_what_came_of_it(report):
    groups = report.planned.groups
    assert report.planned.divergence == pytest.approx(sum(group.divergence(group.removed) for group in groups))
    (output,) = report.validation.outputs
    assert report.planned.divergence > 0 and report.validation.divergence == output.classes.divergence
    assert (report.planned.latency_before_ms, report.planned.latency_after_ms) == (None, None)


def test_it_is_the_same_once_written_and_read(report):
    assert Report.from_json(report.to_json()) == report


def test_a_plan_that_was_carried_out_is_kept(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    report = lbyl_onnx.compress(CNN, plan=path, samples=SAMPLES).report
    assert report.planned.groups == plan.groups and report.planned.frontier == plan.frontier
    assert report.options.plan == str(path)
    assert report.planned.divergence == pytest.approx(sum(group.divergence(group.removed) for group in plan.groups))
    assert Report.from_json(report.to_json()) == report


def test_a_plan_that_goes_beyond_what_was_measured_expects_anything(plan):
    first = next(group for group in plan.groups if group.curve and len(group.order) > group.curve[-1][0])
    far = replace(first, removed=first.curve[-1][0] + 1)
    edited = replace(plan, groups=tuple(far if group is first else group for group in plan.groups))
    report = lbyl_onnx.compress(CNN, plan=edited, samples=SAMPLES, validation=False).report
    assert report.planned.divergence == np.inf and report.options.plan == "given"
    assert Report.from_json(report.to_json()) == report


def test_groups_that_lose_the_same_share_have_no_plan():
    report = uniform.compress(CNN, 0.4, validation=False).report
    assert report.planned is None and report.options.plan is None
    assert Report.from_json(report.to_json()) == report


def test_layers_are_those_of_the_graph_with_their_channels(report):
    assert [layer.op for layer in report.layers] == ["Conv", "Conv", "Conv", "Gemm", "Gemm"]
    left = {group.name: (group.units_before, group.units_before - group.units_after) for group in report.groups}
    for layer in report.layers:
        units, gone = left[layer.name]
        assert (layer.channels_before, layer.channels_after) == (units, units - gone)
    assert sum(layer.macs_before for layer in report.layers) == report.input.macs
    assert sum(layer.macs_after for layer in report.layers) == report.output.macs


def test_layers_of_residual_streams_count_once_each():
    report = uniform.compress(ROOT / "models" / "digits_resnet.onnx", 0.4, scope="all", validation=False).report
    assert sum(layer.macs_after for layer in report.layers) == report.output.macs
    assert any(layer.channels_after < layer.channels_before for layer in report.layers)


def test_latencies_of_single_runs_are_told(report):
    for found, median in zip(
        report.validation.latency_quantiles_ms,
        (report.validation.latency_before_ms, report.validation.latency_after_ms),
        strict=True,
    ):
        assert list(found) == sorted(found) and found[latency.QUANTILES // 2] == pytest.approx(median)


def test_expected_latencies_are_corrected_ones():
    model = SimpleNamespace(milliseconds=lambda removed: 10.0 - removed.sum())
    planner = SimpleNamespace(_latency=model, _none=np.zeros(2), latency_factor=1.5)
    assert Planner.predicted_latencies(planner, np.array([1, 3])) == (10.0, 9.0)
    planner._latency = None
    assert Planner.predicted_latencies(planner, np.array([1, 3])) is None


def test_a_planner_without_curves_has_nothing_to_tell():
    assert planned(SimpleNamespace(known=SimpleNamespace(curves={})), SimpleNamespace(choices=())) is None


def test_a_group_without_a_curve_says_so():
    group = PlannedGroup("g", ("g",), 8, 1, 0)
    assert group.divergence(0) == 0 and list(group.divergence(np.array([0, 2]))) == [0, np.inf]
