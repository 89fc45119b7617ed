"""`compress` that removes the same share of every group's units, for tests of other matters than who loses how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from lbyl_onnx import compression
from lbyl_onnx.compression import CompressionResult
from lbyl_onnx.model.model import Model

RATIO = 0.3
UNIFORM = ("--ratio", str(RATIO), "--allocation", "uniform")
"""The same on the command line; options that follow may set another ratio."""


def compress(model: str | Path | onnx.ModelProto | Model, ratio: float = RATIO, **options: Any) -> CompressionResult:
    return compression.compress(model, ratio, **{"allocation": "uniform", "round_to": 1, **options})
