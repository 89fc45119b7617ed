"""More various samples for models without convolutions, whose layers see one row a sample, not one a position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import ModelError
from ..model.model import Model
from ..model.session import open_session, run_batches
from ..options import RunOptions, SampleOptions
from .inputs import InputSpec
from .synthetic import convolves, synthetic_inputs

CANDIDATES = 4
"""Synthetic samples that are made for each that is used."""
LEAST_CONTRAST = 0.05
ENOUGH_ROWS = 512
"""Given samples that are fewer are topped up to this number."""


def sees_rows(model: Model, specs: tuple[InputSpec, ...]) -> bool:
    """Whether the model multiplies a single input of numbers, any number of samples a run, without convolutions."""
    single = len(specs) == 1 and specs[0].dtype.kind == "f" and specs[0].shape[:1] in ((None,), (1,))
    multiplies = any(node.op_type in ("Gemm", "MatMul") for node in model.proto.graph.node)
    return single and multiplies and not convolves(model)


def varied_images(model: Model, name: str, samples: int, options: SampleOptions, runtime: RunOptions) -> np.ndarray:
    """Synthetic images for the one input `name`, (samples, ...): of CANDIDATES times as many, those that are spread
    evenly over the model's own top-1 classes, where it has some, each then of a contrast of its own, because the
    biases of a layer count for more, the less its input varies. The model runs on the CPU, so that they are the same
    for any provider."""
    images = synthetic_inputs(model, CANDIDATES * samples, options)[name]
    try:
        scores = run_batches(open_session(model, replace(runtime, provider="cpu")), {name: images})[0]
    except (ModelError, ValueError):  # refused, or of other sizes from batch to batch
        scores = np.empty(0)
    if scores.ndim == 2 and scores.shape[1] > 1 and len(scores) == len(images) and scores.dtype.kind == "f":
        images = images[evenly_classed(scores, samples)]
    exponent = np.random.default_rng(options.seed).random((samples, *[1] * (images.ndim - 1)))
    return (images[:samples] * LEAST_CONTRAST**exponent).astype(images.dtype)


def evenly_classed(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices, int64 (count,), of samples with `scores` (samples, classes): first the one of each top-1 class that
    leads by most, in deviations of its scores, then the second of each, and so on; in the samples' own order."""
    top = scores.argmax(axis=1)
    first, second = np.partition(scores, (-2, -1), axis=1)[:, [-1, -2]].T
    lead = (first - second) / (scores.std(axis=1) + np.finfo(np.float32).tiny)
    rank = np.empty(len(scores), np.int64)
    for each in np.unique(top):
        members = np.flatnonzero(top == each)
        rank[members[np.argsort(-lead[members], kind="stable")]] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:count])


def topped_up(array: np.ndarray, seed: int) -> np.ndarray:
    """The given samples (samples, ...), and below ENOUGH_ROWS copies of them, in each of which a share of its own of
    the elements is replaced by others of the array: a fit of as many weights as a row is long needs the rows."""
    missing = ENOUGH_ROWS - len(array)
    if missing <= 0:
        return array
    rng = np.random.default_rng(seed)
    copies = array[np.arange(missing) % len(array)]
    share = rng.random((missing, *[1] * (array.ndim - 1)))
    others = array.ravel()[rng.integers(0, array.size, copies.shape)]
    return np.concatenate([array, np.where(rng.random(copies.shape) < share, others, copies)])
