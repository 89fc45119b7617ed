"""What Olive is told of the pass, and what is said where Olive is missing."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

WITHOUT_OLIVE = "import sys; sys.modules['olive'] = None; "


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", WITHOUT_OLIVE + code], capture_output=True, text=True, cwd=ROOT)


def test_without_olive_the_extra_is_named():
    result = run("import runpy; runpy.run_module('lbyl_onnx.olive', run_name='__main__')")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: olive-ai is not installed; pip install 'lbyl-onnx[olive]'\n"


def test_without_olive_the_pass_names_the_extra():
    result = run("import lbyl_onnx.olive.compression_pass")
    last = result.stderr.splitlines()[-1]
    assert "UsageError: olive-ai cannot be imported" in last and "pip install 'lbyl-onnx[olive]'" in last


def test_nothing_else_imports_olive():
    result = run("import lbyl_onnx; [getattr(lbyl_onnx, name) for name in lbyl_onnx.__all__]; import lbyl_onnx.cli")
    assert result.returncode == 0, result.stderr


def test_olive_keeps_its_own_passes():
    pytest.importorskip("olive.version", reason="needs olive-ai (pip install 'lbyl-onnx[olive]')")
    result = subprocess.run([sys.executable, "-m", "lbyl_onnx.olive"], capture_output=True, text=True, cwd=ROOT)
    passes = json.loads(result.stdout)["passes"]
    assert {"LbylCompression", "OnnxStaticQuantization"} <= set(passes)
