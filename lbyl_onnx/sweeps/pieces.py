"""The pieces of a sweep, one model at one budget each: what identifies them, and the files that record them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..budgets import Budget
from ..calibration.user_samples import Source
from ..errors import ModelError
from ..evaluation.json_form import from_json, to_json
from ..evaluation.records import Report
from ..model.reading import load
from ..model.writing import write_whole
from ..options import Options

Budgets = tuple[Budget, ...]
"""What has to hold together for one result."""
PIECES, MODELS = "pieces", "models"
"""Folders of a sweep's records and results."""
KEY_LENGTH = 32
CHUNK = 2**20


@dataclass(frozen=True, repr=False)
class Piece:
    """What became of one model at one budget. `file`: the result, in the folder MODELS, and `report`: its record, which
    has latencies once they are measured; or `reason`: why there is none."""

    key: str
    budget: str
    file: str | None = None
    report: Report | None = None
    reason: str | None = None

    @property
    def timed(self) -> bool:
        """Whether nothing is left to measure."""
        return self.report is None or self.report.validation is None or self.report.validation.timed


def named(budgets: Budgets) -> str:
    """Budgets as text, such as "macs=0.9,bytes=4000000"."""
    return ",".join(str(each).replace(",", "").replace(" bytes", "").replace(" ", "") for each in budgets)


def file_name(model: str, budgets: Budgets, key: str) -> str:
    """The name of a result, which tells a reader what it is, and by its key from all others."""
    return f"{Path(model).stem}-{re.sub(r'[^a-z0-9.=]+', '-', named(budgets))}-{key[:8]}.onnx"


def key_of(model_digest: str, samples_digest: str, options: Options, budgets: Budgets) -> str:
    """What identifies a piece: the contents of the model and of given samples, all options, and what made it."""
    asked = replace(options, prune=replace(options.prune, targets=budgets))
    parts = (model_digest, samples_digest, to_json(asked), version("lbyl-onnx"), ort.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:KEY_LENGTH]


def model_digest(path: str) -> str:
    """SHA-256 of a model's files, external data included; of its own file alone where it cannot be read as a model."""
    try:
        files: Iterable[Path] = load(path).files
    except ModelError:
        files = [Path(path)] if Path(path).is_file() else []
    return _digest(files)


def samples_digest(sources: Iterable[Source | None]) -> str:
    """SHA-256 of given samples: arrays and .npz files by what is in them, folders by their files' names, sizes and
    times; empty where none are given."""
    digest = hashlib.sha256()
    for source in sources:
        if isinstance(source, Mapping):
            for name in sorted(source):
                array = np.asarray(source[name])
                digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
        elif source is not None and Path(source).is_dir():
            for path in sorted(Path(source).rglob("*")):
                stat = path.stat()
                digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        elif source is not None and Path(source).is_file():
            digest.update(_digest([Path(source)]).encode())
    return digest.hexdigest()


def piece_path(out: Path, key: str) -> Path:
    """Where a piece is recorded."""
    return out / PIECES / f"{key}.json"


def read_piece(out: Path, key: str) -> Piece | None:
    """A finished piece; None where there is none, its result is gone, or its record is of another version."""
    try:
        found = from_json(Piece, piece_path(out, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.file is None or (out / MODELS / found.file).is_file() else None


def write_piece(out: Path, piece: Piece) -> None:
    """Record a piece, whole or not at all."""
    write_whole({piece_path(out, piece.key): f"{to_json(piece)}\n".encode()})


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
