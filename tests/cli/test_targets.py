import io
import json
import os
import sys
from types import SimpleNamespace

import command_line
import onnx
import pytest
from command_line import CNN, assert_refused, files, start
from uniform import UNIFORM

import lbyl_onnx
from lbyl_onnx.cli import commands

lbyl = command_line.lbyl


@pytest.fixture
def standard_input(monkeypatch):
    """Sets what the process reads."""

    def give(content):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    return give


def external(folder, name="m.onnx"):
    """The model with its weights in a file of their own."""
    folder.mkdir(exist_ok=True)
    onnx.save(onnx.load(CNN), folder / name, save_as_external_data=True, location="m.bin")
    return folder / name


# ---- what exists already


def test_existing_output_needs_force(lbyl, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    assert_refused(lbyl("compress", CNN, out), 2, str(out), "exists already", "--force")
    assert out.read_text() == "mine"
    assert lbyl("compress", CNN, out, *UNIFORM, "--force", "--quiet")[0] == 0
    assert lbyl_onnx.inspect(out).groups


def test_an_existing_report_needs_force(lbyl, tmp_path):
    out, record = tmp_path / "out.onnx", tmp_path / "r.json"
    record.write_text("mine")
    command = "compress", CNN, out, *UNIFORM, "--report", record, "--no-validate"
    assert_refused(lbyl(*command), 2, f"--report {record}", "exists already", "--force")
    assert record.read_text() == "mine" and files(tmp_path) == ["r.json"]
    assert lbyl(*command, "--force")[0] == 0
    assert json.loads(record.read_text())["output"]["path"] == str(out)


def test_input_is_overwritten_with_force_only(lbyl, tmp_path):
    model, record = tmp_path / "model.onnx", tmp_path / "report.json"
    content = CNN.read_bytes()
    model.write_bytes(content)
    assert_refused(lbyl("compress", model, model), 2, "is the input model", "--force")
    assert model.read_bytes() == content
    assert lbyl("compress", model, model, *UNIFORM, "--force", "--report", record)[0] == 0
    report = json.loads(record.read_text())
    assert (report["input"]["bytes"], report["output"]["bytes"]) == (len(content), model.stat().st_size)


@pytest.mark.parametrize("broken", [False, True])
def test_links_stay_links(lbyl, tmp_path, broken):
    """With --force, the files that they point to are written."""
    real, links = tmp_path / "real", tmp_path / "links"
    real.mkdir(), links.mkdir()
    if not broken:
        (real / "out.onnx").write_text("mine"), (real / "r.json").write_text("mine")
    for name in ("out.onnx", "r.json"):
        (links / name).symlink_to(real / name)
    command = "compress", CNN, links / "out.onnx", *UNIFORM, "--report", links / "r.json", "--no-validate"
    if not broken:
        assert_refused(lbyl(*command), 2, "exists already")
        assert (real / "out.onnx").read_text() == "mine"
    assert lbyl(*command, "--force")[0] == 0
    for name in ("out.onnx", "r.json"):
        assert (links / name).is_symlink() and (links / name).readlink() == real / name
        assert not (real / name).is_symlink()
    assert files(real) == files(links) == ["out.onnx", "r.json"]
    assert lbyl_onnx.inspect(real / "out.onnx").groups and json.loads((real / "r.json").read_text())


def test_targets_are_checked_before_the_work(lbyl, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load", lambda _: pytest.fail("the work began"))
    out = tmp_path / "out.onnx"
    missing = tmp_path / "missing"
    assert_refused(lbyl("compress", CNN, missing / "out.onnx"), 2, str(missing), "does not exist")
    assert_refused(lbyl("compress", CNN, tmp_path), 2, "is a folder")
    assert_refused(lbyl("compress", CNN, tmp_path / ("x" * 300)), 2, "cannot be written")
    assert_refused(lbyl("compress", CNN, out, "--report", missing / "r.json"), 2, "r.json", "does not exist")
    assert_refused(lbyl("compress", CNN, out, "--report", tmp_path), 2, "is a folder")
    for force in ([], ["--force"]):
        for model in (CNN, out):
            refused = lbyl("compress", CNN, out, "--report", model, *force)
            assert_refused(refused, 2, "--report", "is a model of this command")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_refused(lbyl("compress", CNN, out), 2, str(tmp_path), "not writable")
    assert files(tmp_path) == []


# ---- external data


def test_external_data_counts_and_goes_with_a_failed_report(lbyl, tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    out.mkdir()
    external(source)
    arguments = ("compress", source / "m.onnx", out / "m.onnx", *UNIFORM, "--report", out / "r.json", "--no-validate")
    assert lbyl(*arguments)[0] == 0
    report = json.loads((out / "r.json").read_text())
    for side, folder in (("input", source), ("output", out)):
        assert report[side]["bytes"] == sum(p.stat().st_size for p in folder.iterdir() if p.suffix != ".json")

    for file in out.iterdir():
        file.unlink()
    replace = os.replace

    def refuse_report(old, new):
        if str(new).endswith("r.json"):
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse_report)
    assert_refused(lbyl(*arguments), 2, "r.json", "No space left on device")
    assert files(out) == []
    assert_refused(lbyl("compress", source / "m.onnx", *arguments[1:2], *arguments[3:], "--force"), 2, "r.json")
    assert lbyl_onnx.inspect(source / "m.onnx").groups


def test_both_files_of_external_data_are_named(lbyl, tmp_path):
    out = tmp_path / "out.onnx"
    code, printed, _ = lbyl("compress", external(tmp_path / "in"), out, *UNIFORM, "--no-validate")
    assert code == 0 and printed.splitlines()[-1] == f"wrote {out} and {out}.data"
    stored = out.stat().st_size + (tmp_path / "out.onnx.data").stat().st_size
    assert f"{stored:,}" in printed and lbyl_onnx.inspect(out).input.bytes == stored


# ---- standard input and output


def process(*arguments, content=b""):
    found = start(*arguments)
    out, err = found.communicate(content)
    return found.returncode, out, err.decode()


def test_the_model_goes_through_pipes(tmp_path):
    code, out, err = process("compress", "-", "-", *UNIFORM, "--no-validate", content=CNN.read_bytes())
    assert code == 0, err
    proto = onnx.load_from_string(out)
    assert lbyl_onnx.inspect(proto).groups[0].units_before == 22
    assert "wrote the model to standard output" in err and f"{len(out):,}" in err
    onnx.save(proto, tmp_path / "again.onnx")
    assert lbyl_onnx.validate(CNN, tmp_path / "again.onnx", samples=1).outputs


def test_a_model_from_standard_input(lbyl, tmp_path, standard_input):
    standard_input(CNN.read_bytes())
    out = tmp_path / "out.onnx"
    code, printed, err = lbyl("compress", "-", out, *UNIFORM, "--calibration", CNN.with_name("digits_eval.npz"))
    assert code == 0 and lbyl_onnx.inspect(out).groups and "None" not in printed + err
    standard_input(CNN.read_bytes())
    code, listed, _ = lbyl("inspect", "-")
    assert code == 0 and listed == lbyl("inspect", CNN)[1]
    standard_input(b"")
    assert_refused(lbyl("inspect", "-"), 3, "empty")
    assert files(tmp_path) == ["out.onnx"]


def test_the_report_on_standard_output(lbyl, tmp_path):
    out = tmp_path / "out.onnx"
    code, printed, err = lbyl("compress", CNN, out, *UNIFORM, "--report", "-", "--no-validate")
    record = lbyl_onnx.Report.from_json(printed)
    assert code == 0 and record.output.path == str(out) and record.output.bytes == out.stat().st_size
    assert f"wrote {out}" in err and files(tmp_path) == ["out.onnx"]


def test_standard_output_carries_one_thing(lbyl, tmp_path):
    assert_refused(lbyl("compress", CNN, "-", "--report", "-"), 2, "--report", "standard output")
    record = tmp_path / "r.json"
    code, out, err = process("compress", CNN, "-", *UNIFORM, "--report", record, "--quiet", "--no-validate")
    assert (code, err) == (0, "") and json.loads(record.read_text())["output"]["bytes"] == len(out)
    assert onnx.load_from_string(out).graph.node
