"""The one place where importance criteria are registered, and what they are given to rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..calibration.samples import Calibration
from ..channels.folding import FoldedReader, ProducerLayer
from ..channels.groups import Analysis, ChannelGroup, WeightAxis
from ..errors import UsageError
from ..options import PruneOptions, RunOptions
from ..progress import Tell, untold


@dataclass(frozen=True)
class Reading:
    """What one consumer reads on the first fold of samples: `mean`, float64 (inputs,), and `covariance`, float32
    (inputs, inputs), of all inputs of its rows, or (`whole` is False) of the units of the group."""

    consumer: WeightAxis
    mean: np.ndarray
    covariance: np.ndarray
    whole: bool


@dataclass(frozen=True)
class Trial:
    """The same choice from the first fold of samples alone, so that the others can show what it does. `order`: int64
    (units that may go,), those that go first; `readings`: of the consumers that were measured."""

    order: np.ndarray
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Ranking:
    """One group's units in the order of a criterion. `importance`: float64 (units,), the least goes first. `errors`:
    float64 (units,) or shorter, what is expected to be lost once so many units are gone, relative to the variance of
    the consumers' outputs (None: not predicted). `trial`: None for a criterion that needs no samples."""

    importance: np.ndarray
    errors: np.ndarray | None = None
    trial: Trial | None = None

    def order(self, free: np.ndarray) -> np.ndarray:
        """Those of the units that are `free`, bool (units,), from the least important on, then the others; int64
        (units,)."""
        return np.argsort(np.where(free, self.importance, np.inf), kind="stable")

    def predicted_error(self, removed: int) -> float | None:
        """The error once the first `removed` units are gone."""
        if self.errors is None or removed > len(self.errors):
            return None
        return float(self.errors[removed - 1]) if removed else 0.0


@dataclass(frozen=True)
class RankingTask:
    """What there is to rank. `groups`: those that may lose units, by number; `counts`: how many each is to lose;
    `calibration`: samples, None for a criterion that needs none; `tell`: what hears of progress; `trying`: whether
    trials are wanted."""

    analysis: Analysis
    groups: Mapping[int, ChannelGroup]
    counts: Mapping[int, int]
    options: PruneOptions
    runtime: RunOptions
    calibration: Calibration | None = None
    tell: Tell = untold
    trying: bool = False


Ranker = Callable[[RankingTask], dict[int, Ranking]]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion. `rank`: rankings by group number, groups that it cannot rank left out; `fallback`: the
    criterion that ranks those; `comparable`: whether units of different layers compare by it."""

    name: str
    rank: Ranker
    needs_samples: bool = False
    fallback: str | None = None
    comparable: bool = False


CRITERIA: dict[str, Criterion] = {}


def criterion_named(name: str) -> Criterion:
    """The criterion of that name; UsageError where there is none."""
    if not isinstance(name, str) or name not in CRITERIA:
        raise UsageError(f"{name!r} is unknown; expected one of {', '.join(CRITERIA)}", "criterion")
    return CRITERIA[name]


def criterion(
    name: str, needs_samples: bool = False, fallback: str | None = None, comparable: bool = False
) -> Callable[[Ranker], Ranker]:
    """Register a function that ranks all groups at once."""

    def register(rank: Ranker) -> Ranker:
        if name in CRITERIA:
            raise ValueError(f"criterion {name!r} is registered twice")
        CRITERIA[name] = Criterion(name, rank, needs_samples, fallback, comparable)
        return rank

    return register


Scorer = Callable[[ProducerLayer], np.ndarray]


def layer_criterion(name: str, order: int = 2, comparable: bool = False) -> Callable[[Scorer], Scorer]:
    """Register a function that scores the channels of one producer, float64 (channels,).

    A unit of several filters or producers has the norm, of this `order`, of the vector of their scores.
    """

    def register(score: Scorer) -> Scorer:
        def rank(task: RankingTask) -> dict[int, Ranking]:
            reader = FoldedReader(task.analysis.model)
            return {number: Ranking(_unit_scores(group, reader, score, order)) for number, group in task.groups.items()}

        criterion(name, comparable=comparable)(rank)
        return score

    return register


def _unit_scores(group: ChannelGroup, reader: FoldedReader, score: Scorer, order: int) -> np.ndarray:
    total = np.zeros(group.units)
    for producer in group.producers:
        layer = reader.read(producer)
        if layer is None:
            raise ValueError(f"the weight of {producer.name!r} cannot be read, yet its group may lose units")
        own = producer.units >= 0
        np.add.at(total, producer.units[own], score(layer)[own] ** order)
    return total ** (1 / order)
