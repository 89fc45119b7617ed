import os
import signal
import subprocess
import sys

import command_line
import pytest
from command_line import CNN, assert_refused, files, start
from conftest import ROOT
from uniform import UNIFORM

import lbyl_onnx
from lbyl_onnx import compression
from lbyl_onnx.cli import screen, targets
from lbyl_onnx.evaluation import inspection
from lbyl_onnx.model import writing
from lbyl_onnx.progress import Progress

lbyl = command_line.lbyl


@pytest.mark.parametrize("moment", [(compression, "compress"), (writing, "_publish"), (targets, "write_record")])
def test_interruption_leaves_nothing(lbyl, tmp_path, monkeypatch, moment):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(*moment, interrupt)
    result = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--report", tmp_path / "r.json", "--no-validate")
    assert_refused(result, 130, "interrupted")
    assert files(tmp_path) == []


@pytest.mark.parametrize("module", ["typer", "numpy", "onnxruntime", "scipy"])
def test_an_interruption_while_importing_is_quiet(tmp_path, module):
    """A stand-in for a library is interrupted as it is imported."""
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt\n")
    process = start("inspect", CNN, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


SIGNALLED = """
import signal

try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    raise ImportError("initialization failed")
"""


@pytest.mark.parametrize("stand_in", ["raise KeyboardInterrupt", SIGNALLED], ids=["raised", "signalled"])
def test_the_installed_command_is_interrupted_quietly(tmp_path, stand_in):
    """Libraries in C make another error of the interruption."""
    (tmp_path / "typer.py").write_text(stand_in)
    code = """
import signal
from importlib.metadata import entry_points

signal.signal(signal.SIGINT, signal.default_int_handler)
(command,) = entry_points(group="console_scripts", name="lbyl-onnx")
command.load()()
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": path})
    assert (found.returncode, found.stdout, found.stderr) == (130, b"", b"")


def test_importing_leaves_the_handling_of_interruptions():
    code = "import signal, lbyl_onnx; lbyl_onnx.compress; print(signal.getsignal(2) is signal.default_int_handler)"
    code = f"import signal; signal.signal(2, signal.default_int_handler); {code}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).stdout == b"True\n"


def test_unexpected_errors_are_one_line(lbyl, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("first line\nsecond \x1b[31mline")

    monkeypatch.setattr(inspection, "inspect", fail)
    monkeypatch.delenv("LBYL_ONNX_DEBUG", raising=False)
    line = "internal error: ZeroDivisionError: first line second ?[31mline; please report it\n"
    assert lbyl("inspect", CNN) == (1, "", line)
    monkeypatch.setenv("LBYL_ONNX_DEBUG", "1")
    code, _, err = lbyl("inspect", CNN)
    assert code == 1 and err.startswith("Traceback") and err.endswith(line)


def test_lack_of_memory_is_no_internal_error(lbyl, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(inspection, "inspect", fail)
    assert_refused(lbyl("inspect", CNN), 1, "out of memory")


def test_version(lbyl):
    assert lbyl("--version") == (0, f"lbyl-onnx {lbyl_onnx.__version__}\n", "")


def test_a_bar_and_a_spinner_only_on_a_terminal(capsys, monkeypatch):
    """Elsewhere a line for each stage, and nothing in place of the spinner; with `quiet` nothing anywhere."""
    first, second = (Progress("restoring", layer, 0.5, 4.4, 5.0) for layer in ("conv_1", "conv_2"))

    def told(**options):
        with screen.progress(**options) as tell:
            tell(first)
            tell(second)
        with screen.waiting("probing"):
            pass
        return capsys.readouterr().err

    assert told() == "restoring (4 s)\n" and told(quiet=True) == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    shown = told()
    assert "restoring conv_2, 5 s left" in shown and "50 %" in shown and "probing" in shown
    assert "restoring" not in told(quiet=True)


# ---- the process


def test_exit_code_of_the_process(tmp_path):
    process = start("inspect", tmp_path / "missing.onnx")
    out, err = process.communicate()
    assert (process.returncode, out) == (3, b"") and err.startswith(b"error: ")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs SIGPIPE")
def test_broken_pipe_is_quiet():
    process = start("inspect", CNN, "--json")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE
