"""What was known of a run's loss before anything was cut."""

import pytest
from command_line import chain
from conftest import ROOT

import lbyl_onnx
from lbyl_onnx.evaluation import latency, tables

CNN = ROOT / "models" / "digits_cnn_folded.onnx"


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)


def run(model=CNN, ratio=0.1, restore="none", **options):
    return lbyl_onnx.compress(model, ratio, restore=restore, **options).report


@pytest.mark.parametrize(("criterion", "drawn"), [("random", True), ("l1", False), ("l2", False)])
def test_the_bound_stands_beside_what_was_measured(criterion, drawn):
    report = run(criterion=criterion)
    bound = report.bound
    assert bound.random == drawn and bound.reason is None
    assert 0 < bound.measured <= bound.root_mean_square < bound.gap and bound.delta == 0.05
    output = report.validation.outputs[0]
    assert (bound.measured / bound.size) ** 2 == pytest.approx(output.error_share, rel=1e-3)
    assert lbyl_onnx.Report.from_json(report.to_json()).bound == bound


def test_the_line_says_where_a_bound_says_nothing():
    assert "which says nothing" in tables.bound(run(criterion="random"))
    report = run(chain(), 0.2, criterion="l1")
    assert report.bound.root_mean_square < report.bound.size
    assert "says nothing" not in tables.bound(report) and "can move the output" in tables.bound(report)


def test_what_was_made_up_for_has_no_bound():
    report = run(restore="lbyl", criterion="l1")
    assert report.bound is None and tables.bound(report) is None
    assert run(criterion="l1", validation=False).bound is None


def test_networks_that_are_no_row_have_a_reason():
    report = run(ROOT / "models" / "digits_resnet.onnx", criterion="l1")
    assert "more than one node" in report.bound.reason and tables.bound(report) is None


def test_what_was_tried_is_no_draw():
    report = run(criterion="random", ratio=None, target={"drop": "30%"})
    assert "settled by trying" in report.bound.reason
