"""How long both models take, in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort

from ..model.session import run

LATENCY_SECONDS = 0.4
LATENCY_PAIRS = (3, 200)


def latencies(
    before: ort.InferenceSession,
    after: ort.InferenceSession,
    feed: dict[str, np.ndarray],
    pairs: list[tuple[float, float]],
) -> tuple[float, float]:
    """Median milliseconds of one run of each, taken in turns: of those in `pairs` already, seconds, and of runs of
    `feed` until there are enough. The first pair warms up and does not count."""
    pairs = list(pairs)
    least, most = LATENCY_PAIRS
    end = time.perf_counter() + LATENCY_SECONDS - sum(map(sum, pairs))
    while len(pairs) <= least or (len(pairs) <= most and time.perf_counter() < end):
        pairs.append((timed(before, feed)[1], timed(after, feed)[1]))
    medians = 1000 * np.median(pairs[1:], axis=0)
    return float(medians[0]), float(medians[1])


def timed(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> tuple[list[Any], float]:
    """The outputs of one run, and its seconds."""
    start = time.perf_counter()
    values = run(session, feed)
    return values, time.perf_counter() - start
