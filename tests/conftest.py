"""Fixtures for all tests: where the shared models, data and skeletons lie, or a clean skip."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # pytest-xdist fills the cores
os.environ.setdefault("OLIVE_DISABLE_TELEMETRY", "1")  # Olive reports what it does, and waits for that where it cannot

settings.register_profile("unhurried", deadline=None)  # no test is timed
settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

sys.path.insert(0, str(Path(__file__).resolve().parent))


def shared(*parts: str) -> Path:
    """A path below the shared folder; skips the test where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared measuring material, which is not here")
    return path


def shared_files(*parts: str) -> list[Path]:
    """Model files of a shared folder, for parametrising; empty where the folder is missing."""
    return sorted(SHARED.joinpath(*parts).glob("*.onnx"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with copies of the models."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path
