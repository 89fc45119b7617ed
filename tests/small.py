"""Small models for sweeps, and an executor that needs no other process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

import onnx
from graphs import Builder

SAMPLES = 16


def model(path: Path, units: int = 32, seed: int = 0) -> Path:
    """Two convolutions and a classifier of 4 classes, on images of 3x8x8; the same for the same units and seed."""
    graph = Builder(seed=seed)
    hidden = graph.node("Relu", graph.conv(graph.input((1, 3, 8, 8)), 3, units, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, units, 24, name="second"))
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", hidden))
    onnx.save(graph.model(graph.gemm(pooled, 24, 4)), path)
    return path


class Here(Executor):
    """Makes each call at once, in this process."""

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def here(*_: object) -> Iterator[Executor]:
    """In place of `executors.executor`."""
    yield Here()
