"""How long each kernel of a model takes, as onnxruntime's profiler says."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..options import RunOptions
from .model import Model
from .session import open_session, run

RUNS = (4, 60)
SECONDS = 0.1
QUANTILE = 0.25
"""Of the times of one thing: whatever disturbs a run makes it longer."""
_KERNEL = "_kernel_time"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """One node of the graph that onnxruntime made of a model. `name`: as in the model, or as onnxruntime made it up;
    `takes`, `makes`: the shapes of its inputs and outputs; `milliseconds`: of one run."""

    name: str
    takes: tuple[Shape, ...]
    makes: tuple[Shape, ...]
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """`kernels`: in the order in which they run; they sum to the `milliseconds` that the model takes when nobody
    profiles it. `reference`: what the reference took meanwhile."""

    kernels: tuple[Kernel, ...]
    milliseconds: float
    reference: float


def profile(model: Model, reference: ort.InferenceSession, feed: dict[str, np.ndarray], options: RunOptions) -> Profile:
    """Run `model` and the session `reference` in turns on `feed`: at least RUNS[0] times, at most RUNS[1] times, for
    SECONDS between these; the first turn warms up and does not count.

    Raises ModelError where onnxruntime refuses the model or a run, UsageError where the provider cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        profiled = open_session(model, options, profile=Path(folder) / "profile")
        plain = open_session(model, options)
        seconds: list[list[float]] = []
        end = time.perf_counter() + SECONDS
        while len(seconds) <= RUNS[0] or (len(seconds) <= RUNS[1] and time.perf_counter() < end):
            seconds.append([_seconds(session, feed) for session in (profiled, reference, plain)])
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    _, other, own = 1000 * np.quantile(seconds[1:], QUANTILE, axis=0)
    return Profile(_summing_to(float(own), _kernels(events)), float(own), float(other))


def _seconds(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    run(session, feed)
    return time.perf_counter() - start


def _summing_to(milliseconds: float, kernels: list[Kernel]) -> tuple[Kernel, ...]:
    """The same, each a constant longer or shorter (what profiling or starting a kernel takes), but none below a tenth
    of what it was before all are scaled."""
    taken = np.array([kernel.milliseconds for kernel in kernels])
    left = np.maximum(taken + (milliseconds - taken.sum()) / max(len(taken), 1), 0.1 * taken)
    left *= milliseconds / max(left.sum(), 1e-9)
    return tuple(replace(kernel, milliseconds=float(each)) for kernel, each in zip(kernels, left, strict=True))


def _kernels(events: list[dict[str, Any]]) -> list[Kernel]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL)].append(event)
    return [
        Kernel(
            name,
            _shapes(runs[-1]["args"].get("input_type_shape", [])),
            _shapes(runs[-1]["args"].get("output_type_shape", [])),
            float(np.quantile([event["dur"] for event in runs[1:] or runs], QUANTILE)) / 1000,
        )
        for name, runs in found.items()
    ]


def _shapes(typed: list[dict[str, list[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for value in typed for shape in value.values())
