"""Where pages and pictures go: from Python and from the command line, whole or not at all."""

import builtins
import fnmatch
import os
import re

import command_line
import pytest
from command_line import assert_refused, files
from conftest import ROOT
from runs import CNN, bare, recorded

import lbyl_onnx
from lbyl_onnx.errors import UsageError
from lbyl_onnx.evaluation.records import Report
from lbyl_onnx.model import writing
from lbyl_onnx.reporting import figures
from lbyl_onnx.reporting import files as reports
from lbyl_onnx.reporting.page import page
from lbyl_onnx.reporting.pictures import WORDS

lbyl = command_line.lbyl
PICTURES = sorted(f"{name}.{kind}" for name in WORDS for kind in ("svg", "png"))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures, "DOTS", 40)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "run.json"
    lbyl_onnx.save_report(recorded(), path)
    return path


def test_the_suffix_says_what_is_written(tmp_path):
    lbyl_onnx.save_report(recorded(), tmp_path / "run.HTM")
    lbyl_onnx.save_report(recorded(), str(tmp_path / "run.json"))
    assert (tmp_path / "run.HTM").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Report.from_json((tmp_path / "run.json").read_text(encoding="utf-8")) == recorded()
    assert files(tmp_path) == ["run.HTM", "run.json"]


def test_what_exists_is_overwritten_with_force_only(record):
    with pytest.raises(UsageError, match="exists already"):
        lbyl_onnx.save_report(recorded(), record)
    lbyl_onnx.save_report(recorded(), record, force=True)
    with pytest.raises(UsageError, match="path is an int"):
        lbyl_onnx.save_report(recorded(), 3)
    with pytest.raises(UsageError, match="does not exist"):
        lbyl_onnx.save_report(recorded(), record.parent / "nowhere" / "run.json")


def test_pictures_go_to_a_folder(tmp_path):
    written = lbyl_onnx.save_plots(recorded(), tmp_path / "pictures")
    assert files(tmp_path / "pictures") == sorted(path.name for path in written) == PICTURES
    with pytest.raises(UsageError, match="exists already"):
        lbyl_onnx.save_plots(recorded(), tmp_path / "pictures")


def test_what_fails_halfway_leaves_nothing(tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).endswith("b"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    (tmp_path / "old").write_text("old")
    with pytest.raises(UsageError, match=r"b: cannot be written \(No space left on device\)"):
        writing.write_whole({tmp_path / "new" / "a": b"a", tmp_path / "new" / "b": b"b"})
    assert files(tmp_path) == ["old"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    writing.write_whole({tmp_path / "link": b"new"})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_bytes() == b"new"


def test_compress_writes_a_page_and_pictures(lbyl, tmp_path):
    options = ("--allocation", "uniform", "--ratio", "0.3", "--criterion", "l2", "--restore", "none")
    wanted = ("--report", tmp_path / "r.html", "--plot", tmp_path / "p")
    code, _, err = lbyl("compress", CNN, tmp_path / "a.onnx", *options, *wanted)
    assert code == 0, err
    assert files(tmp_path) == ["a.onnx", "p", "r.html"]
    assert {"left.svg", "layers.png", "latency.svg"} <= set(files(tmp_path / "p"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"{(tmp_path / 'a.onnx').stat().st_size:,}" in page
    again = ("compress", CNN, tmp_path / "b.onnx", *options, "--plot", tmp_path / "p")
    assert_refused(lbyl(*again), 2, "--plot", "exists already", "--force")
    assert not (tmp_path / "b.onnx").exists()


def test_a_page_that_cannot_be_made_leaves_no_model(lbyl, tmp_path, monkeypatch):
    def fails(report):
        raise UsageError("nothing can be drawn")

    monkeypatch.setattr(reports, "page", fails)
    options = ("--allocation", "uniform", "--ratio", "0.3", "--criterion", "l2", "--restore", "none", "--no-validate")
    assert_refused(lbyl("compress", CNN, tmp_path / "a.onnx", *options, "--report", tmp_path / "r.html"), 2, "drawn")
    assert files(tmp_path) == []


def test_what_is_missing_is_said_before_the_work_begins(lbyl, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *given):
        if name == "jinja2":
            raise ImportError("No module named 'jinja2'", name="jinja2")
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", without)
    for option in (("--report", tmp_path / "r.html"), ("--plot", tmp_path / "p")):
        result = lbyl("compress", CNN, tmp_path / "a.onnx", *option)
        assert_refused(result, 2, "jinja2", "pip install 'lbyl-onnx[report]'")
        assert result[2].count("\n") == 1
    assert files(tmp_path) == []


def test_a_recorded_run_becomes_a_page(lbyl, tmp_path):
    lbyl_onnx.save_report(bare(), tmp_path / "run.json")
    code, out, err = lbyl("report", tmp_path / "run.json", tmp_path / "run.html", "--plot", tmp_path)
    assert (code, out, err) == (0, "", "")
    assert files(tmp_path) == ["left.png", "left.svg", "run.html", "run.json"]
    assert (tmp_path / "run.html").read_text(encoding="utf-8") == page(bare())


@pytest.mark.parametrize(
    ("content", "target", "parts"),
    [
        (None, "run.html", ("No such file", "--report run.json")),
        ("{}", "run.html", ("is no report", "--report run.json")),
        ("\x00", "run.html", ("is no report",)),
        ("{}", "run.txt", ("ends in .html",)),
        ("{}", "run.json", ("ends in .html",)),
        ("{}", "nowhere/run.html", ("does not exist",)),
    ],
)
def test_what_cannot_become_a_page(lbyl, tmp_path, content, target, parts):
    record = tmp_path / "run.json"
    if content is not None:
        record.write_text(content)
    assert_refused(lbyl("report", record, tmp_path / target), 2, *parts)
    assert files(tmp_path) == ([] if content is None else ["run.json"])


def test_templates_are_part_of_the_package():
    (data,) = re.findall(r"^lbyl_onnx = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    patterns = re.findall(r'"([^"]+)"', data)
    found = [path.relative_to(ROOT / "lbyl_onnx").as_posix() for path in (ROOT / "lbyl_onnx").rglob("templates/*")]
    assert len(found) == 3 and all(any(fnmatch.fnmatch(path, each) for each in patterns) for path in found)
