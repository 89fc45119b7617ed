"""`plan` from Python and from the command line: the frontier, its tables, and files that `compress` carries out."""

import json
from itertools import pairwise

import command_line
import onnx
import pytest
from command_line import CNN, assert_refused, files, said
from graphs import Builder

import lbyl_onnx
from lbyl_onnx import NothingToRemove, PlanReport, UsageError
from lbyl_onnx.budgets import budgets
from lbyl_onnx.evaluation import latency, planning, rounds
from lbyl_onnx.evaluation.json_form import from_json
from lbyl_onnx.evaluation.planned import SHARES
from lbyl_onnx.evaluation.planning import MEASURED

lbyl = command_line.lbyl

SAMPLES = 32


@pytest.fixture(autouse=True, scope="module")
def short_latencies():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "LATENCY_SECONDS", 0.02)
        patch.setattr(latency, "LATENCY_PAIRS", (1, 3))
        yield


@pytest.fixture(scope="module")
def report():
    return lbyl_onnx.plan(CNN, samples=SAMPLES)


# ---- the frontier


def test_the_frontier_falls_in_work_and_rises_in_what_is_lost(report):
    points = report.frontier
    assert [point.share for point in points] == list(SHARES)
    assert all(later.macs <= earlier.macs for earlier, later in pairwise(points))
    assert all(later.predicted >= earlier.predicted for earlier, later in pairwise(points))
    assert points[-1].macs < points[0].macs and points[-1].predicted > points[0].predicted > 0


def test_points_of_the_frontier_keep_their_budgets(report):
    assert all(point.macs <= point.share * report.input.macs for point in report.frontier)
    assert all(point.parameters < report.input.parameters for point in report.frontier)


def test_three_points_are_measured(report):
    found = {point.share: point.measured for point in report.frontier if point.measured is not None}
    assert tuple(found) == MEASURED
    assert 0 < found[0.9] < found[0.7] < 1


@pytest.fixture
def one_round(monkeypatch):
    """The frontier is planned in one round."""
    monkeypatch.setattr(rounds, "_look_again", lambda planner, limits, result: None)


def test_what_is_measured_is_the_divergence_of_the_compressed_model(report, one_round):
    result = lbyl_onnx.compress(CNN, target={"macs": 0.8}, samples=SAMPLES)
    (output,) = result.report.validation.outputs
    (point,) = (point for point in report.frontier if point.share == 0.8)
    assert point.macs == result.report.output.macs and point.parameters == result.report.output.parameters
    assert point.measured == pytest.approx(output.classes.divergence, rel=1e-4)


def test_the_frontier_ends_where_budgets_are_out_of_reach():
    """Much of the work is done between layers that stay whole."""
    points = lbyl_onnx.plan(CNN, samples=SAMPLES, include="layer1").frontier
    assert 3 < len(points) < len(SHARES)
    assert [point.share for point in points] == list(SHARES[: len(points)])


def test_outputs_that_are_no_classes_lose_a_share_of_what_tells_samples_apart(one_round):
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 8, 8)), 3, 32, name="first"))
    model = graph.model(graph.conv(hidden, 32, 4))
    result = lbyl_onnx.compress(model, target={"macs": 0.7}, samples=SAMPLES)
    (output,) = result.report.validation.outputs
    (point,) = (point for point in lbyl_onnx.plan(model, samples=SAMPLES).frontier if point.share == 0.7)
    assert output.classes is None
    assert point.measured == pytest.approx(10 ** (-output.variation_db / 10), rel=1e-3)


# ---- the plan


def test_four_fifths_of_the_work_stay_by_default(report):
    assert report.options.prune.targets == budgets({"macs": 0.8})
    result = lbyl_onnx.compress(CNN, plan=report, samples=SAMPLES, validation=False).report.output
    assert 0.6 * report.input.macs < result.macs <= 0.8 * report.input.macs


def test_a_plan_says_where_it_comes_from(report):
    assert report.input.path == str(CNN) and report.input.bytes == CNN.stat().st_size
    assert report.options.samples.samples == SAMPLES and report.calibration.startswith(f"{SAMPLES} synthetic samples")
    assert [group.name for group in report.groups] == [group.name for group in lbyl_onnx.inspect(CNN).groups]


@pytest.mark.parametrize("asked", [{"ratio": 0.4}, {"target": {"params": 0.5}}])
def test_a_plan_is_for_what_is_asked_for(asked):
    found = lbyl_onnx.plan(CNN, samples=SAMPLES, **asked)
    direct = lbyl_onnx.compress(CNN, samples=SAMPLES, validation=False, **asked).report
    units = {group.name: group.units_before - group.units_after for group in direct.groups}
    assert {group.name: group.removed for group in found.groups} == units
    assert found.options.prune == direct.options.prune


# ---- refused


@pytest.mark.parametrize("target", [{"drop": "1%"}, {"macs": 0.8, "drop": 2}])
def test_a_loss_of_accuracy_cannot_be_planned(target):
    with pytest.raises(UsageError, match=r"^target drop is found by trial results, which only compress makes; ask for"):
        lbyl_onnx.plan(CNN, target=target)


def test_a_plan_without_a_group_to_cut_is_refused():
    with pytest.raises(NothingToRemove):
        lbyl_onnx.plan(CNN, include="nobody")


def test_a_plan_out_of_reach_is_refused():
    with pytest.raises(NothingToRemove, match="macs cannot be brought to"):
        lbyl_onnx.plan(CNN, samples=SAMPLES, target={"macs": 0.001})


# ---- the command


def small(folder):
    """A model with a name that is wider than a screen."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 16, name="/encoder/block.0" * 8 + "/Conv"))
    hidden = graph.node("Relu", graph.conv(hidden, 16, 12, (1, 1), name="second"))
    onnx.save(graph.model(graph.conv(hidden, 12, 4, (1, 1))), folder / "in.onnx")
    return folder / "in.onnx"


def test_the_tables_fit_a_screen(lbyl, tmp_path, monkeypatch):
    """The name of a group is longer than a line."""
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, err = lbyl("plan", small(tmp_path), "--samples", SAMPLES)
    assert code == 0 and said(err) == ""
    groups, frontier = printed.rstrip("\n").split("\n\n")
    assert max(map(len, printed.splitlines())) <= 80
    assert groups.split("\n")[0].split() == ["Group", "Units", "MACs", "Sensitivity", "To", "go"]
    assert len(groups.split("\n")) == 3 and "..." in groups
    assert frontier.split("\n")[0].split() == ["Budget", "MACs", "Params", "Predicted", "divergence", "Measured"]
    assert files(tmp_path) == ["in.onnx"]


def test_the_tables_show_what_was_found(lbyl, monkeypatch, report):
    monkeypatch.setattr(planning, "plan", lambda *_, **__: report)
    _, printed, _ = lbyl("plan", CNN)
    groups, frontier = (part.splitlines()[1:] for part in printed.rstrip("\n").split("\n\n"))
    free = [group for group in report.groups if group.reason is None]
    assert [(line.split()[0], line.split()[1], line.split()[-1]) for line in groups] == [
        (group.name, str(group.units), str(group.removed)) for group in free
    ]
    assert [line.split()[:2] for line in frontier] == [
        [f"macs={point.share:g}", f"{point.macs:,}"] for point in report.frontier
    ]
    measured = [line.split()[4] for line in frontier if len(line.split()) == 5]
    assert measured == [f"{point.measured:.3g}" for point in report.frontier if point.measured is not None]


def test_compress_carries_a_written_plan_out(lbyl, tmp_path):
    model, path, out = small(tmp_path), tmp_path / "plan.json", tmp_path / "out.onnx"
    code, _, _ = lbyl("plan", model, "--samples", SAMPLES, "--target", "macs=0.5", "--out", path)
    assert code == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    record["groups"][1]["removed"] = 5
    path.write_text(json.dumps(record), encoding="utf-8")
    code, _, err = lbyl("compress", model, out, "--plan", path, "--samples", SAMPLES)
    assert code == 0, err
    left = [group.units_before for group in lbyl_onnx.inspect(out).groups]
    assert left == [16 - record["groups"][0]["removed"], 7, 4]


def test_a_plan_goes_to_standard_output(lbyl, tmp_path):
    code, printed, err = lbyl("plan", small(tmp_path), "--samples", SAMPLES, "--out", "-")
    assert code == 0 and from_json(PlanReport, printed).groups[1].name == "second"
    assert "Sensitivity" in err and "macs=0.9" in err


@pytest.mark.parametrize("asked", [["--ratio", 0.5], ["--target", "macs=0.5"]])
def test_a_plan_and_a_budget_are_one_too_many(lbyl, tmp_path, report, asked):
    path = tmp_path / "plan.json"
    path.write_text(report.to_json(), encoding="utf-8")
    refused = lbyl("compress", CNN, tmp_path / "out.onnx", "--plan", path, *asked)
    assert_refused(refused, 2, "--plan says already how much goes; leave out ratio and target")
    assert files(tmp_path) == ["plan.json"]


def test_wrong_plans_are_usage_errors(lbyl, tmp_path, report):
    path, out = tmp_path / "plan.json", tmp_path / "out.onnx"
    assert_refused(lbyl("compress", CNN, out, "--plan", path), 2, f"--plan {path}: No such file or directory")
    path.write_text("no plan")
    assert_refused(lbyl("compress", CNN, out, "--plan", path), 2, f"--plan {path} is no plan")
    path.write_text(report.to_json(), encoding="utf-8")
    refused = lbyl("compress", small(tmp_path), out, "--plan", path)
    assert_refused(refused, 2, "--plan does not fit in.onnx: it has '/layer1/conv/Conv', the model 3 groups")
    assert files(tmp_path) == ["in.onnx", "plan.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--target", "drop=1%"], 2, "--target drop is found by trial results"),
        (["--target", "macs=much"], 2, "--target macs=much is no budget"),
        (["--ratio", 1], 2, "--ratio is 1"),
        (["--include", "nobody"], 4, ""),
        (["--target", "macs=0.001", "--samples", SAMPLES], 4, "cannot be brought to"),
    ],
)
def test_exit_codes(lbyl, arguments, code, words):
    assert_refused(lbyl("plan", CNN, *arguments), code, words)


def test_models_that_cannot_be_read(lbyl, tmp_path):
    (tmp_path / "in.onnx").write_text("no model")
    assert_refused(lbyl("plan", tmp_path / "in.onnx"), 3, "in.onnx")


def test_a_plan_is_not_written_over_what_exists(lbyl, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("mine")
    assert_refused(lbyl("plan", CNN, "--out", path), 2, f"--out {path}", "exists already", "--force")
    assert_refused(lbyl("plan", CNN, "--out", tmp_path / "missing" / "plan.json"), 2, "does not exist")
    assert path.read_text() == "mine" and files(tmp_path) == ["plan.json"]
    assert lbyl("plan", CNN, "--samples", SAMPLES, "--out", path, "--force")[0] == 0
    assert json.loads(path.read_text(encoding="utf-8"))["input"]["path"] == str(CNN)


def test_json_with_a_path_is_out(lbyl, tmp_path):
    code, printed, _ = lbyl("plan", CNN, "--samples", SAMPLES, "--json", tmp_path / "plan.json")
    assert code == 0 and "Sensitivity" in printed
    assert PlanReport.from_json((tmp_path / "plan.json").read_text(encoding="utf-8")).input.path == str(CNN)
