"""Every model of onnx's own backend tests: inspect and compress do their job or say that there is nothing to do."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx.backend.test.case.node import collect_testcases
from uniform import UNIFORM

from lbyl_onnx import cli

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILES = sorted([*DATA.glob("*/*/model.onnx"), *DATA.glob("light/*.onnx")])
CHUNKS = 8
ACCEPTED = {0, 4}


@functools.cache
def operators() -> dict[str, onnx.ModelProto]:
    """The models of one operator each, by name; newer versions of onnx make them instead of shipping files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.model_name: case.model for case in collect_testcases(None) if case.model is not None}


def loads(model: bytes) -> bool:
    """Whether onnxruntime takes the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def exit_codes(model: bytes, folder: Path) -> tuple[int, int]:
    """Exit codes of inspect and compress."""
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(model)
    options = ["--ratio", "0.5", "--scope", "all", "--restore", "none", "--provider", "cpu", "--force"]
    return cli.run(["inspect", str(source)]), cli.run(["compress", str(source), str(target), *UNIFORM, *options])


def assert_accepted(models: dict[str, bytes], folder: Path, capsys: pytest.CaptureFixture[str]) -> Counter[bool]:
    """How many models onnxruntime loads and refuses; all that it loads end with exit code 0 or 4."""
    count: Counter[bool] = Counter()
    wrong = {}
    for name, model in models.items():
        loaded = loads(model)
        count[loaded] += 1
        if loaded and not ACCEPTED.issuperset(codes := exit_codes(model, folder)):
            wrong[name] = codes, capsys.readouterr().err
    assert not wrong
    return count


@pytest.mark.slow
def test_shipped_files(tmp_path, capsys):
    models = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in FILES}
    assert len(models) >= 140
    assert assert_accepted(models, tmp_path, capsys)[True] >= 100


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_single_operators(chunk, tmp_path, capsys):
    names = sorted(operators())[chunk::CHUNKS]
    models = {name: operators()[name].SerializeToString() for name in names}
    count = assert_accepted(models, tmp_path, capsys)
    assert count.total() == len(names) >= 1500 // CHUNKS
    assert count[True] >= 0.6 * len(names)
