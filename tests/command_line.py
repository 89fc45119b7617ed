"""The command line in tests: a fixture that runs a command in this process, and what is said of the outcome.

A test module takes the fixture by `lbyl = command_line.lbyl`.

>>> code, out, err = lbyl("inspect", CNN)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx import cli
from lbyl_onnx.evaluation import latency
from lbyl_onnx.progress import SHARES

CNN = ROOT / "models" / "digits_cnn.onnx"
DIGITS = ROOT / "models" / "digits_eval.npz"

Result = tuple[int, str, str]


@pytest.fixture
def lbyl(capsys, monkeypatch) -> Callable[..., Result]:
    """Runs a command: (exit code, standard output, standard error)."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))

    def call(*arguments: object) -> Result:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def said(err: str) -> str:
    """Standard error behind the lines that say which stage begins."""
    stages = re.match(rf"(?:(?:{'|'.join(SHARES)}) \(\d+ s\)\n)*", err)
    assert stages is not None
    return err[stages.end() :]


def assert_refused(result: Result, code: int, *parts: str) -> None:
    """Exit code, and one line on standard error, behind those of the stages, that contains all parts."""
    found, out, err = result
    assert found == code, err
    assert out == ""
    err = said(err)
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def chain(names: tuple[str, str] = ("first", "second"), weight: np.ndarray | None = None) -> onnx.ModelProto:
    """x -> Gemm -> Relu -> Gemm -> y with 2, 8 and 3 features."""
    weights = {
        "w0": np.random.default_rng(0).standard_normal((2, 8)) if weight is None else weight,
        "w1": np.random.default_rng(1).standard_normal((8, 3)),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["h"], names[0]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1"], ["y"], names[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lbyl_onnx", *map(str, arguments)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
