"""How long both models take, in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort

from ..model.session import run

LATENCY_SECONDS = 0.4
LATENCY_PAIRS = (3, 200)
QUANTILES = 21
"""How many quantiles of the latencies are recorded, from the shortest to the longest in equal shares of the runs."""


def latencies(
    before: ort.InferenceSession,
    after: ort.InferenceSession,
    feed: dict[str, np.ndarray],
    pairs: list[tuple[float, float]],
) -> np.ndarray:
    """Milliseconds of one run of each, taken in turns, float64 (pairs, 2): of those in `pairs` already, seconds, and of
    runs of `feed` until there are enough. The first pair warms up and does not count."""
    pairs = list(pairs)
    least, most = LATENCY_PAIRS
    end = time.perf_counter() + LATENCY_SECONDS - sum(map(sum, pairs))
    while len(pairs) <= least or (len(pairs) <= most and time.perf_counter() < end):
        pairs.append((timed(before, feed)[1], timed(after, feed)[1]))
    return 1000 * np.array(pairs[1:], np.float64)


def quantiles(milliseconds: np.ndarray) -> tuple[float, ...]:
    """QUANTILES of one model's latencies, float64 (runs,)."""
    return tuple(np.quantile(milliseconds, np.linspace(0, 1, QUANTILES)).tolist())


def timed(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> tuple[list[Any], float]:
    """The outputs of one run, and its seconds."""
    start = time.perf_counter()
    values = run(session, feed)
    return values, time.perf_counter() - start
