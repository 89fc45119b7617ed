"""Sweeps on a Dask cluster of several processes, one of which is killed."""

import json
import os
import signal
import threading
import time

import pytest
import small
from small import SAMPLES

import lbyl_onnx
from lbyl_onnx.errors import UsageError
from lbyl_onnx.evaluation import latency

distributed = pytest.importorskip("distributed")

TARGETS = [{"macs": share} for share in (0.9, 0.8, 0.7, 0.6)]
PATIENCE = 120


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.01)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as found:
        yield found


def busy(client, models, out):
    """The process that works on a model of which some results are recorded and some are not, or None."""
    processes = client.run(os.getpid)
    for worker, keys in client.processing().items():
        recorded = len(list((out / "pieces").glob("*.json")))
        if keys and 0 < recorded < len(models) * len(TARGETS):
            return processes[worker]
    return None


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(cluster, tmp_path):
    models = [small.model(tmp_path / f"{name}.onnx", 64, seed) for seed, name in enumerate("abc")]
    truncated, out = tmp_path / "truncated.onnx", tmp_path / "out"
    truncated.write_bytes(models[0].read_bytes()[:1000])
    found = []
    options = {"scheduler": cluster.scheduler_address, "samples": SAMPLES, "provider": "cpu"}
    sweep = threading.Thread(
        target=lambda: found.append(lbyl_onnx.sweep([*models, truncated], TARGETS, out, **options))
    )
    sweep.start()
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        until = time.monotonic() + PATIENCE
        while (process := busy(client, models, out)) is None and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
    recorded = [json.loads(path.read_text(encoding="utf-8"))["file"] for path in (out / "pieces").glob("*.json")]
    before = {name: (out / "models" / name).stat().st_mtime_ns for name in recorded if name}
    sweep.join(PATIENCE)
    (result,) = found
    assert [row.status for row in result.rows] == ["done"] * 12 + ["refused"] * 4
    after = {path.name: path.stat().st_mtime_ns for path in (out / "models").glob("*.onnx")}
    assert 0 < len(before) < len(after) == 12, "the worker was not killed in the middle"
    assert {name: after[name] for name in before} == before, "a recorded result was made again"
    assert len(list((out / "pieces").iterdir())) == 16
    for row, target in zip(result.rows[:4], TARGETS, strict=True):
        alone = lbyl_onnx.compress(
            models[0], target=target, samples=SAMPLES, provider="cpu", threads=1, validation=False
        )
        lbyl_onnx.save(alone, tmp_path / "alone.onnx", force=True)
        assert (out / row.file).read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("lbyl_onnx.sweeps.executors.CONNECTION_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://here"):
        with pytest.raises(UsageError, match="cannot be reached") as caught:
            lbyl_onnx.sweep([small.model(tmp_path / "m.onnx")], TARGETS, tmp_path / "out", scheduler=address)
        assert caught.value.parameter == "scheduler"


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'lbyl-onnx\[cluster\]'"):
        lbyl_onnx.sweep([small.model(tmp_path / "m.onnx")], TARGETS, tmp_path / "out", scheduler="tcp://127.0.0.1:9")
