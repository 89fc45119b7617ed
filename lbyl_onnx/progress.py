"""What a caller is told while a run goes on: the stage, the layer, and about how long it still takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

SHARES = {
    "analysing": 0.09,
    "sampling": 0.10,
    "choosing": 0.35,
    "planning": 0.10,
    "restoring": 0.20,
    "measuring": 0.02,
    "validating": 0.14,
}
"""The stages in their order and about the share of a run that each takes."""
PACKAGE = __name__.partition(".")[0]
"""The logger above all others."""
LOG_FORMAT = "%(asctime)s %(name)s: %(message)s"
EARLY = 0.1
"""Below this share of the run nothing is said about the time that remains."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run is. `stage`: one of SHARES; `layer`: the weight layer that is being worked on, by its node's output,
    empty where there is none; `share`: of the run that is done, in [0, 1], estimated; `seconds`: since it began;
    `remaining`: estimated seconds, None while it is too early to say."""

    stage: str
    layer: str
    share: float
    seconds: float
    remaining: float | None


Listener = Callable[[Progress], None]
Tell = Callable[[str, float], None]
"""Says which layer comes next and which share of the stage is done."""


def untold(layer: str, share: float) -> None:
    """Tells nobody."""


class Telling:
    """Tells a listener, None for nobody, where a run is."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._started = time.perf_counter()
        self._stage = next(iter(SHARES))
        self._since: float | None = None

    def stage(self, stage: str) -> None:
        """A stage begins, and the one before it ends."""
        self.end()
        self._stage, self._since = stage, time.monotonic()
        self.layer("", 0.0)

    def end(self) -> None:
        """The last stage ends."""
        if self._since is not None:
            logger.info("%s took %.2f s", self._stage, time.monotonic() - self._since)
        self._since = None

    def layer(self, layer: str, share: float) -> None:
        """A layer begins, when this share of the stage is done."""
        if self._listener is None:
            return
        stages = list(SHARES)
        before = sum(SHARES[stage] for stage in stages[: stages.index(self._stage)])
        done = min(before + share * SHARES[self._stage], 1.0)
        seconds = time.perf_counter() - self._started
        remaining = seconds * (1 - done) / done if done >= EARLY else None
        self._listener(Progress(self._stage, layer, done, seconds, remaining))
