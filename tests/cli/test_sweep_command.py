import json
import signal
import sys
import time

import command_line
import pytest
import small
from command_line import assert_refused, files, start
from small import SAMPLES

import lbyl_onnx
from lbyl_onnx.sweeps import sweep as sweeping

lbyl = command_line.lbyl
QUICK = "--samples", SAMPLES, "--provider", "cpu"


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    found = [small.model(folder / f"{name}.onnx", units) for name, units in (("a", 32), ("b", 48))]
    (folder / "cut off.onnx").write_bytes(found[0].read_bytes()[:1000])
    return [*found, folder / "cut off.onnx"]


def test_two_processes_sweep_three_models(lbyl, models, tmp_path):
    """One of them is no model; nothing is done twice when the command is given again."""
    out = tmp_path / "results"
    command = "sweep", *models, "--target", "macs=0.8", "--target", "macs=0.6,bytes=2,000kB", "--out", out, *QUICK
    code, printed, err = lbyl(*command, "--jobs", 2)
    assert code == 0, err
    assert files(out) == ["models", "pieces", "sweep.csv", "sweep.html"] and len(files(out / "models")) == 4
    rows = [line.split() for line in printed.splitlines()]
    assert [row[:2] for row in rows[1:5]] == [
        [name, budget] for name in "ab" for budget in ("macs=0.8", "macs=0.6,bytes=2000000")
    ]
    assert printed.count("refused: cut off at ") == 2 and printed.count("truncated") == 2
    assert printed.rstrip().endswith(f"4 done, 2 refused; wrote {out / 'sweep.csv'}")
    assert "[6/6] " in err and "of the MACs, divergence" in err and " ms, original " in err
    code, printed, err = lbyl(*command, "--json")
    assert (code, err) == (0, "")
    assert [row["status"] for row in json.loads(printed)["rows"]] == ["done"] * 4 + ["refused"] * 2


def test_every_option_is_passed_on(lbyl, tmp_path, monkeypatch):
    seen = {}

    def sweep(models, targets, out, **options):
        seen.update(options, models=models, targets=targets, out=out)
        return lbyl_onnx.Sweep(str(out), ())

    monkeypatch.setattr(sweeping, "sweep", sweep)
    options = {
        **{"jobs": 3, "scheduler": "tcp://here:1", "scope": "all", "round_to": 4, "include": "a", "exclude": "b"},
        **{"calibration": "noise", "samples": 7, "seed": 5, "provider": "cpu", "threads": 2},
    }
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    looks = "--shape", "x:1x3", "--input-range", "0,1", "--eval", "labelled"
    given = "--target", "macs=0.9", "--target", "macs=300M,bytes=4,000,000B", "--out", tmp_path
    assert lbyl("sweep", "a.onnx", "b.onnx", *given, *arguments, *looks, "--quiet") == (0, "", "")
    assert {name: seen[name] for name in options} == options
    assert seen["targets"] == [{"macs": "0.9"}, {"macs": "300M", "bytes": "4,000,000B"}]
    assert [str(model) for model in seen["models"]] == ["a.onnx", "b.onnx"] and seen["out"] == tmp_path
    assert seen["shapes"] == {"x": (1, 3)} and seen["normalisation"].mean == (0,) and seen["evaluation"] == "labelled"
    assert seen["progress"] is None


def test_wrong_usage(lbyl, models, tmp_path):
    out = tmp_path / "out"
    asked = "sweep", models[0], "--out", out
    assert_refused(lbyl("sweep", models[0], "--target", "macs=0.8"), 2, "--out", "sweep --help")
    assert_refused(lbyl(*asked), 2, "--target")
    assert_refused(lbyl(*asked, "--target", "macs=much"), 2, "--target macs=much is no budget")
    assert_refused(lbyl(*asked, "--target", "0.8"), 2, "not of the form NAME=VALUE")
    assert_refused(lbyl(*asked, "--target", "latency=0.8", "--jobs", 2), 2, "--target latency is timed")
    assert_refused(lbyl(*asked, "--target", "macs=0.8", "--jobs", 0), 2, "--jobs is 0")
    assert not out.exists()


def test_a_worker_that_breaks_off_is_told_of(lbyl, models, tmp_path):
    code, printed, err = lbyl("sweep", tmp_path / "missing.onnx", "--target", "macs=0.8", "--out", tmp_path / "out")
    assert code == 1 and "failed: missing at macs=0.8: FileNotFoundError" in printed
    assert err.endswith("error: 1 result could not be made; start the same sweep again\n")


@pytest.fixture
def interruptible():
    """Commands that are started heed SIGINT, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_sweep_goes_on(lbyl, models, tmp_path):
    out = tmp_path / "out"
    targets = [text for share in (0.9, 0.8, 0.7, 0.6) for text in ("--target", f"macs={share}")]
    command = "sweep", *models[:2], *targets, "--out", out, *QUICK, "--jobs", 1
    process = start(*command)
    until = time.monotonic() + 60
    while not list(out.glob("pieces/*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"") and err.endswith(b"error: interrupted\n")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("models/*.onnx")}
    assert 0 < len(before) < 8 and not (out / "sweep.csv").exists()
    assert lbyl(*command)[0] == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("models/*.onnx")}
    recorded = {name for name in before if after[name] == before[name]}
    assert len(after) == 8 and len(before) - len(recorded) <= 1, "only what was being recorded is made again"
