"""Sweeps in one process: what is done, what is not done again, and what becomes of models that fail."""

import csv
import io
import json

import numpy as np
import pytest
import small
from small import SAMPLES

import lbyl_onnx
from lbyl_onnx.errors import UsageError
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.latency import Latencies
from lbyl_onnx.sweeps import sweep as sweeping
from lbyl_onnx.sweeps import tasks

QUICK = {"calibration": "noise", "samples": SAMPLES, "provider": "cpu", "threads": 1}
TARGETS = [{"macs": 0.8}, {"macs": 0.6}]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(sweeping, "executor", small.here)
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.01)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


@pytest.fixture
def worked(monkeypatch):
    """What is prepared, by model, and what is compressed, by model and budgets."""
    prepared, compressed = [], []
    preparation, compress = tasks.Preparation, tasks.compress_prepared

    def prepare(source, *arguments):
        prepared.append(source.name)
        return preparation(source, *arguments)

    def counted(shared, budgets, **options):
        compressed.append((shared.source.name, str(budgets[0])))
        return compress(shared, budgets, **options)

    monkeypatch.setattr(tasks, "Preparation", prepare)
    monkeypatch.setattr(tasks, "compress_prepared", counted)
    return prepared, compressed


@pytest.fixture
def models(tmp_path):
    return [small.model(tmp_path / f"{name}.onnx", units) for name, units in (("a", 32), ("b", 48))]


def sweep(models, out, targets=TARGETS, **options):
    options = {**QUICK, **options}
    return lbyl_onnx.sweep(models, targets, out, **options)


def test_results_are_those_of_compress(models, tmp_path, worked):
    found = sweep(models, tmp_path / "out")
    assert [(row.model, row.budget, row.status) for row in found.rows] == [
        (str(model), budget, "done") for model in models for budget in ("macs=0.8", "macs=0.6")
    ]
    assert worked[0] == ["a.onnx", "b.onnx"] and len(worked[1]) == 4
    for row, target in zip(found.rows, TARGETS * 2, strict=True):
        alone = lbyl_onnx.compress(row.model, target=target, validation=False, **QUICK)
        lbyl_onnx.save(alone, tmp_path / "alone.onnx", force=True)
        assert (tmp_path / "out" / row.file).read_bytes() == (tmp_path / "alone.onnx").read_bytes()
        assert row.macs_after == alone.report.output.macs and row.macs_before == alone.report.input.macs
        assert row.macs_share <= target["macs"] and row.divergence > 0
        assert row.latency_before_ms > 0 and row.latency_after_ms > 0


def test_table_page_and_records_are_written(models, tmp_path):
    found = sweep(models, tmp_path / "out")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "sweep.csv").read_text())))
    assert [(row["model"], row["budget"]) for row in table] == [(row.model, row.budget) for row in found.rows]
    assert float(table[0]["divergence"]) == found.rows[0].divergence and table[0]["reason"] == ""
    assert "<svg" in (tmp_path / "out" / "sweep.html").read_text()
    record = json.loads((tmp_path / "out" / "pieces" / f"{found.rows[0].key}.json").read_text())
    assert record["report"]["validation"]["latency_after_ms"] == found.rows[0].latency_after_ms
    assert record["report"]["options"]["prune"]["targets"][0]["value"] == 0.8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["models", "pieces", "sweep.csv", "sweep.html"]
    assert json.loads(found.to_json())["rows"][0]["key"] == found.rows[0].key


def test_what_is_finished_is_not_done_again(models, tmp_path, worked):
    first = sweep(models, tmp_path / "out")
    worked[0].clear(), worked[1].clear()
    assert sweep(models, tmp_path / "out") == first and worked == ([], [])
    found = sweep(models, tmp_path / "out", [*TARGETS, {"macs": 0.7}])
    assert worked[1] == [("a.onnx", "macs=0.7"), ("b.onnx", "macs=0.7")] and len(found.rows) == 6
    assert {row.key for row in first.rows} < {row.key for row in found.rows}


def test_an_interrupted_sweep_goes_on(models, tmp_path, worked):
    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(models[:1], tmp_path / "out", progress=interrupt)
    assert len(worked[1]) == 2 and not (tmp_path / "out" / "sweep.csv").exists()
    found = sweep(models, tmp_path / "out")
    assert worked[1][2:] == [("b.onnx", "macs=0.8"), ("b.onnx", "macs=0.6")]
    assert [row.status for row in found.rows] == ["done"] * 4


@pytest.mark.parametrize("half", ["record", "model"])
def test_half_a_result_is_none(models, tmp_path, worked, half):
    """A worker that died between the model and its record, and a model that somebody has removed."""
    (row, _) = sweep(models[:1], tmp_path / "out").rows
    name = f"pieces/{row.key}.json" if half == "record" else row.file
    (tmp_path / "out" / name).unlink()
    worked[1].clear()
    assert sweep(models[:1], tmp_path / "out").rows[0].file == row.file
    assert worked[1] == [("a.onnx", "macs=0.8")]


def test_other_contents_and_options_are_other_pieces(models, tmp_path, worked):
    first = sweep(models[:1], tmp_path / "out")
    keys = {row.key for row in first.rows}
    small.model(models[0], 32, seed=1)
    changed = sweep(models[:1], tmp_path / "out")
    assert keys.isdisjoint(row.key for row in changed.rows)
    seeded = sweep(models[:1], tmp_path / "out", seed=3)
    assert len(keys | {row.key for found in (changed, seeded) for row in found.rows}) == 6
    small.model(models[0], 32)
    worked[1].clear()
    assert sweep(models[:1], tmp_path / "out") == first and worked[1] == []


def test_the_same_contents_are_done_once(models, tmp_path, worked):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(models[0].read_bytes())
    found = sweep([models[0], copy], tmp_path / "out")
    assert len(worked[1]) == 2
    assert [row.model for row in found.rows] == [str(models[0])] * 2 + [str(copy)] * 2
    assert found.rows[0].file == found.rows[2].file


def test_failing_models_are_rows(models, tmp_path, worked):
    truncated, missing = tmp_path / "truncated.onnx", tmp_path / "missing.onnx"
    truncated.write_bytes(models[0].read_bytes()[:1000])
    asked = [{"macs": 0.8}, {"macs": 1e-6}]
    found = sweep([truncated, missing, models[0]], tmp_path / "out", asked)
    assert [row.status for row in found.rows] == ["refused"] * 2 + ["failed"] * 2 + ["done", "refused"]
    reasons = [row.reason for row in found.rows]
    assert "truncated" in reasons[0] and "no such file" in reasons[2] and reasons[4] is None
    assert "macs cannot be brought to" in reasons[5]
    worked[1].clear()
    again = sweep([truncated, missing, models[0]], tmp_path / "out", asked)
    assert again == found and worked[1] == []
    small.model(missing, 40)
    assert sweep([missing], tmp_path / "out", asked).rows[0].status == "done"


def test_nothing_to_remove_is_a_row(models, tmp_path):
    (row,) = sweep(models[:1], tmp_path / "out", [{"macs": 0.8}], include="nobody").rows
    assert row.status == "refused" and "nothing to remove" in row.reason


def test_an_error_of_ours_is_tried_again(models, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("first line\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "compress_prepared", fail)
        found = sweep(models[:1], tmp_path / "out")
    assert {(row.status, row.reason) for row in found.rows} == {("failed", "ZeroDivisionError: first line")}
    assert [row.status for row in sweep(models[:1], tmp_path / "out").rows] == ["done", "done"]


def test_budgets_hold_together(models, tmp_path):
    (row,) = sweep(models[:1], tmp_path / "out", [{"macs": 0.9, "params": 0.5}]).rows
    assert row.budget == "macs=0.9,params=0.5"
    assert row.macs_share <= 0.9 and row.parameters_after <= 0.5 * row.parameters_before


def test_what_a_killed_worker_left_is_removed(models, tmp_path):
    draft = tmp_path / "out" / "models" / ".lbyl-onnx-abc"
    draft.mkdir(parents=True)
    (draft / "half.onnx").write_text("half")
    sweep(models[:1], tmp_path / "out")
    assert not draft.exists()


# ---- times


def test_times_are_taken_when_all_is_done(models, tmp_path, monkeypatch):
    seen = []
    timed = sweeping.timed
    monkeypatch.setattr(sweeping, "timed", lambda *arguments: seen.append("timed") or timed(*arguments))
    sweep(models, tmp_path / "out", progress=lambda progress: seen.append(progress.timing))
    assert seen == [False] * 4 + ["timed", True] * 4


def test_slower_results_come_with_advice(models, tmp_path, monkeypatch):
    monkeypatch.setattr("lbyl_onnx.sweeps.clock.latencies", lambda *_: Latencies(np.array([[2.0, 2.5]])))
    found = sweep(models[:1], tmp_path / "out")
    assert (found.rows[0].latency_before_ms, found.rows[0].latency_after_ms) == (2.0, 2.5)
    record = json.loads((tmp_path / "out" / "pieces" / f"{found.rows[0].key}.json").read_text())
    assert record["report"]["warnings"][-1].startswith("the result is not faster: 2.5 ms, original 2 ms")


def test_a_budget_of_latency_wants_no_crowd(models, tmp_path):
    for crowd in ({"jobs": 2}, {"scheduler": "tcp://nowhere:1"}):
        with pytest.raises(UsageError, match="latency is timed") as caught:
            sweep(models, tmp_path / "out", [{"latency": 0.9}], **crowd)
        assert caught.value.parameter == "target" and not (tmp_path / "out").exists()


def test_a_budget_of_latency_is_planned_by_times(models, tmp_path, monkeypatch):
    seen = []
    compress = tasks.compress_prepared

    def watched(shared, budgets, **options):
        seen.append((str(budgets[0]), options))
        return compress(shared, budgets, **options)

    monkeypatch.setattr(tasks, "compress_prepared", watched)
    found = sweep(models[:1], tmp_path / "out", [{"macs": 0.8}, {"latency": 1.0}])
    assert seen == [("macs=0.8", {"timed": False}), ("latency=1", {"timed": True})]
    assert found.rows[0].status == "done"


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"models": []}, "models"),
        ({"models": "one.onnx"}, "models"),
        ({"targets": []}, "targets"),
        ({"targets": [{}]}, "targets"),
        ({"targets": [{"speed": 1}]}, "target"),
        ({"jobs": 0}, "jobs"),
        ({"jobs": 2, "scheduler": "tcp://nowhere:1"}, "jobs"),
        ({"samples": 0}, "samples"),
        ({"calibration": 3}, "calibration"),
    ],
)
def test_wrong_arguments(tmp_path, change, parameter):
    arguments = {"models": [tmp_path / "m.onnx"], "targets": TARGETS, "out": tmp_path / "out", **change}
    with pytest.raises(UsageError) as caught:
        lbyl_onnx.sweep(**arguments)
    assert caught.value.parameter == parameter and not (tmp_path / "out").exists()


def test_a_file_is_no_folder(models, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="cannot be made a folder"):
        sweep(models, tmp_path / "out")
