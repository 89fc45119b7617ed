"""How long both models take, in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from ..model.session import run

LATENCY_SECONDS = 0.4
LATENCY_PAIRS = (3, 200)
FASTER, LONGER = 0.9, 4
"""Where the second takes more than this share of the first's time, so many times as many runs are taken: plans hang on
it, and beside another program few runs are off by tenths."""
QUANTILES = 21
"""How many quantiles of the latencies are recorded, from the shortest to the longest in equal shares of the runs."""


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of single runs of two models, taken in turns, float64 (runs, 2); none where they were not timed."""

    milliseconds: np.ndarray

    @property
    def medians(self) -> tuple[float, float]:
        """Of both models, not a number where they were not timed."""
        before, after = np.median(self.milliseconds, axis=0) if len(self.milliseconds) else (np.nan, np.nan)
        return float(before), float(after)

    @property
    def quantiles(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """QUANTILES of both models."""
        if not len(self.milliseconds):
            return (), ()
        before, after = np.quantile(self.milliseconds, np.linspace(0, 1, QUANTILES), axis=0).T.tolist()
        return tuple(before), tuple(after)


UNTIMED = Latencies(np.empty((0, 2)))


def latencies(
    before: ort.InferenceSession,
    after: ort.InferenceSession,
    feed: dict[str, np.ndarray],
    pairs: list[tuple[float, float]],
) -> Latencies:
    """Of those in `pairs` already, seconds, and of runs of `feed` until there are enough, of which it takes more where
    the second does not seem faster. The first pair warms up and does not count."""
    pairs = list(pairs)
    for times in (1, LONGER):
        least, most = (times * count for count in LATENCY_PAIRS)
        end = time.perf_counter() + times * LATENCY_SECONDS - sum(map(sum, pairs))
        while len(pairs) <= least or (len(pairs) <= most and time.perf_counter() < end):
            pairs.append((timed(before, feed)[1], timed(after, feed)[1]))
        found = Latencies(1000 * np.array(pairs[1:], np.float64))
        first, second = found.medians
        if second < FASTER * first:
            break
    return found


def timed(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> tuple[list[Any], float]:
    """The outputs of one run, and its seconds."""
    start = time.perf_counter()
    values = run(session, feed)
    return values, time.perf_counter() - start
