"""The shared measuring material: models, and images normalised as their models expect them."""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from lbyl_onnx.calibration.samples import calibrate
from lbyl_onnx.calibration.synthetic import AUTO
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import SampleOptions

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,), (0.5,))


@dataclass(frozen=True)
class Labelled:
    """Images as the model expects them, float32 (samples, channels, height, width), and their labels, int64
    (samples,)."""

    images: np.ndarray
    labels: np.ndarray | None


def require(*parts: str) -> Path:
    """A path below the shared folder; ends the program with one line where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        sys.exit(
            f"skipped: this benchmark needs {'/'.join(parts)} of the shared measuring material beside the repository"
        )
    return path


def images(name: str) -> Labelled:
    """The data file `name` ("cifar10_eval", "fashion_mnist_test", ...), normalised."""
    with np.load(require("data", f"{name}.npz")) as data:
        pixels = data["images"].astype(np.float32) / 255
        labels = dict(data).get("labels")
    mean, std = (np.array(part, np.float32) for part in (IMAGENET if pixels.ndim == 4 else HALF))
    pixels = (pixels if pixels.ndim == 4 else pixels[..., None]) - mean
    return Labelled(np.ascontiguousarray((pixels / std).transpose(0, 3, 1, 2)), labels)


def forward_seconds(model: Model, samples: int) -> float:
    """Seconds of one plain forward pass of so many made-up samples."""
    batches = calibrate(model, AUTO, SampleOptions(samples=samples)).batches
    session = open_session(model)
    run(session, batches[0])
    started = time.perf_counter()
    for batch in batches:
        run(session, batch)
    return time.perf_counter() - started


def zoo() -> ModuleType:
    """The module that gives architecture skeletons their weights."""
    return _tool("zoo")


def imagenet() -> ModuleType:
    """The module that counts top-1 of real classifiers on photographs."""
    require("data", "imagenet")
    return _tool("imagenet")


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, require("tools", f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
