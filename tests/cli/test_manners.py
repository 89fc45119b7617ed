"""How the command behaves at a terminal and in scripts: JSON, logs, completion, colours and narrow screens."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys

import command_line
import onnx
import pytest
import small
from command_line import CNN, assert_refused, chain, files
from uniform import UNIFORM

import lbyl_onnx
from lbyl_onnx import cli
from lbyl_onnx.evaluation.json_form import from_json
from lbyl_onnx.evaluation.plan_file import PlanReport
from lbyl_onnx.progress import SHARES

lbyl = command_line.lbyl
QUICK = "--samples", "32", "--provider", "cpu"
MISSING = "missing.onnx"
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def model(tmp_path):
    return small.model(tmp_path / "in.onnx")


# ---- JSON


def test_every_command_prints_one_document(lbyl, model, tmp_path):
    out = tmp_path / "out.onnx"
    commands = {
        "compress": (model, out, "--target", "macs=0.8", *QUICK),
        "plan": (model, *QUICK),
        "inspect": (model,),
        "validate": (model, out),
        "sweep": (model, "--target", "macs=0.8", "--out", tmp_path / "results", "--jobs", 1, *QUICK),
    }
    found = {}
    for command, arguments in commands.items():
        code, printed, err = lbyl(command, *arguments, "--json")
        assert code == 0, err
        found[command] = json.loads(printed)
    assert lbyl_onnx.Report.from_json(json.dumps(found["compress"])).output.path == str(out)
    assert from_json(PlanReport, json.dumps(found["plan"])).groups[0].name == "first"
    assert found["validate"]["outputs"] and found["inspect"]["groups"] and found["sweep"]["rows"]


def test_json_beside_files(lbyl, model, tmp_path):
    record, plan = tmp_path / "r.json", tmp_path / "p.json"
    _, printed, _ = lbyl("compress", model, tmp_path / "out.onnx", *UNIFORM, *QUICK, "--json", "--report", record)
    assert json.loads(printed) == json.loads(record.read_text()) and json.loads(printed)["groups"][0]["errors"]["ware"]
    _, printed, _ = lbyl("plan", model, *QUICK, "--json", "--out", plan)
    assert json.loads(printed) == json.loads(plan.read_text())


@pytest.mark.parametrize(
    "command",
    [
        ("compress", CNN, "-", "--json"),
        ("compress", CNN, "out.onnx", "--report", "-", "--json"),
        ("plan", CNN, "--out", "-", "--json"),
    ],
)
def test_standard_output_carries_one_thing(lbyl, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert_refused(lbyl(*command), 2, "--json prints on standard output", "give")
    assert files(tmp_path) == []


def test_errors_leave_standard_output_empty(lbyl, tmp_path):
    for command in (
        ("inspect", MISSING),
        ("compress", MISSING, tmp_path / "o.onnx"),
        ("plan", MISSING),
        ("validate", MISSING, CNN),
    ):
        assert_refused(lbyl(*command, "--json"), 3, MISSING)


# ---- the log


def test_verbose_tells_stages_samples_and_choices(lbyl, model, tmp_path):
    asked = "--target", "macs=0.8", *QUICK
    code, printed, err = lbyl("compress", model, tmp_path / "out.onnx", *asked, "-v")
    lines = err.splitlines()
    assert code == 0 and "verdict" in printed
    assert all(re.match(r"\d{4}-\d\d-\d\d [\d:,]+ lbyl_onnx\.[\w.]+: ", line) for line in lines[:-1] if line[0] == "2")
    stages = re.findall(r": (\w+) took [\d.]+ s", err)
    assert stages == [stage for stage in stages if stage in command_line.SHARES] and len(set(stages)) >= 6
    assert "measuring on 32 " in err and re.search(r"group first: \d+ of 32 units go; ", err)
    assert " (0 s)\n" not in err, "the log stands in place of the lines of stages"
    _, _, quiet = lbyl("compress", model, tmp_path / "out.onnx", *asked, "--force")
    assert "lbyl_onnx." not in quiet, "the log ends with its command"


def test_from_python_it_is_ordinary_logging(model, caplog):
    with caplog.at_level(logging.INFO, "lbyl_onnx"):
        lbyl_onnx.compress(model, target={"macs": 0.8}, samples=32, validation=False)
    assert {record.name for record in caplog.records} >= {"lbyl_onnx.progress", "lbyl_onnx.compression"}
    assert any(record.getMessage().startswith("group second: ") for record in caplog.records)


def test_nothing_is_logged_unasked(model):
    code = f"import lbyl_onnx; lbyl_onnx.compress({str(model)!r}, target={{'macs': 0.8}}, samples=32)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


# ---- completion


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


@pytest.fixture
def ended(monkeypatch, capsys):
    """Runs a command that ends the process, in this environment: its code and standard output."""

    def call(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            cli.run(list(arguments))
        return end.value.code, capsys.readouterr().out

    return call


def test_shells_complete_commands_and_options(ended):
    _, zsh = ended(_LBYL_ONNX_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="lbyl-onnx compress a b --all")
    assert "--allocation" in zsh and "--scope" not in zsh
    asked = {"_TYPER_COMPLETE_ARGS": "lbyl-onnx sw", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    _, fish = ended(_LBYL_ONNX_COMPLETE="complete_fish", **asked)
    assert fish.startswith("sweep") and "plan" not in fish
    asked = {"COMP_WORDS": "lbyl-onnx compress --min", "COMP_CWORD": "2"}
    _, bash = ended(_LBYL_ONNX_COMPLETE="complete_bash", **asked)
    assert bash.split() == ["--min-agreement", "--min-sqnr"]


def test_completion_is_not_disturbed_by_a_wrong_file(ended, tmp_path, monkeypatch):
    (tmp_path / "lbyl-onnx.toml").write_text("[compress\n")
    monkeypatch.chdir(tmp_path)
    assert ended(_LBYL_ONNX_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="lbyl-onnx pl")[1].count("plan") == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed(ended, tmp_path, shell):
    """As it is where the shell cannot be found out, which is then named."""
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code, out = ended("--install-completion", shell, **home)
    assert code == 0 and f"{shell} completion installed in {tmp_path}" in out
    scripts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and "lbyl-onnx" in path.name]
    assert len(scripts) == 1 and f"_LBYL_ONNX_COMPLETE=complete_{shell}" in scripts[0]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
def test_bash_completes(tmp_path):
    """The script in a bash of its own, with the command as it is installed."""
    (tmp_path / "lbyl-onnx").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lbyl_onnx "$@"\n')
    (tmp_path / "lbyl-onnx").chmod(0o755)
    asks = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 lbyl-onnx --show-completion bash"
    script = (
        f'eval "$({asks})"; COMP_WORDS=(lbyl-onnx inspect --js); COMP_CWORD=2; '
        "_lbyl_onnx_completion lbyl-onnx; echo ${COMPREPLY[@]}"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(PATH=path))
    assert (found.stdout, found.stderr) == ("--json\n", "")


# ---- colours and widths


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_everything_fits_the_terminal(lbyl, tmp_path, monkeypatch, width):
    """Long names too; and no number is cut off."""
    names = tuple("/".join(["", *["block"] * 12, name, "Gemm"]) for name in ("first", "second"))
    onnx.save(chain(names), tmp_path / "m.onnx")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    asked = "--target", "macs=0.8", "--round-to", 1, *QUICK
    printed = {
        "compress": lbyl("compress", "m.onnx", "o.onnx", *asked)[1],
        "validate": lbyl("validate", "m.onnx", "o.onnx")[1],
        "inspect": lbyl("inspect", "m.onnx")[1],
        "plan": lbyl("plan", "m.onnx", "--round-to", 1, *QUICK)[1],
    }
    for command, text in printed.items():
        assert text and max(map(len, text.splitlines())) <= width, command
        assert "…" not in text, command
    assert "first/Gemm" in printed["inspect"] and "first/Gemm" in printed["plan"]
    record = lbyl_onnx.inspect("o.onnx").input
    assert f"{record.parameters:,}" in printed["compress"] and "SQNR dB" in printed["validate"]


def test_sweeps_fit_the_terminal(lbyl, model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = "sweep", model, "--target", "macs=0.8", "--out", "out", "--jobs", 1, *QUICK
    for width in (80, 60, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        code, printed, _ = lbyl(*command)
        table = printed.split("\n\n")[0].splitlines()
        assert code == 0 and max(map(len, table)) <= width and "…" not in printed


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("wanted", [True, False])
def test_colours_only_where_they_are_wanted(model, wanted):
    """On a terminal, whose colours NO_COLOR switches off."""
    import pty

    more = {"TERM": "xterm-256color", **({} if wanted else {"NO_COLOR": "1"})}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lbyl_onnx", "plan", str(model), *QUICK]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(**more))
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 2**16):
            shown += part
    except OSError:  # the terminal's other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0 and b"Sensitivity" in shown
    assert any(stage.encode() in shown for stage in SHARES)  # the bar is drawn a few times a second
    colours = re.findall(rb"\x1b\[(?:\d+;)*(?:3[0-7]|38;[\d;]+|9[0-7])m", shown)
    assert bool(colours) == wanted
