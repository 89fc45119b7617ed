"""Certificates over distributions of which the truth is known: how often they fail, and how loose they are.

Each draw makes new samples, states what they allow, and compares every bound with the truth.
`benchmarks/certificates.py` prints what comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from lbyl_onnx.evaluation.certificates.statements import ACCURACY, CHANGED, MEAN, QUANTILE, Gaps, Statement, state

FALSE_ALARM = 1e-6
"""Probability with which a test of valid certificates fails."""


@dataclass(frozen=True)
class World:
    """One output of a pair of models. `gap`: a distribution in [0, 1]; `changed`, `lost`, `won`: shares of answers."""

    gap: stats.rv_continuous
    changed: float = 0.05
    lost: float = 0.04
    won: float = 0.02

    def drawn(self, samples: int, rng: np.random.Generator, name: str) -> Gaps:
        turned = rng.choice([1, -1, 0], samples, p=[self.lost, self.won, 1 - self.lost - self.won])
        gap = self.gap.rvs(size=samples, random_state=rng).astype(float)
        return Gaps(name, "gap", gap, 1.0, "", rng.random(samples) < self.changed, turned)

    def truth(self, statement: Statement) -> float:
        """What the statement's bound may not fall below."""
        share = statement.share or 0.0
        return {
            CHANGED: self.changed,
            MEAN: float(self.gap.mean()),
            ACCURACY: self.lost - self.won,
            QUANTILE: float(self.gap.ppf(share)),
        }[statement.quantity]


WORLDS = {
    "smooth": World(stats.beta(0.5, 5)),
    "rare, large": World(stats.bernoulli(0.03), changed=0.01, lost=0.01, won=0.001),
    "common": World(stats.beta(2, 2), changed=0.3, lost=0.15, won=0.1),
}


@dataclass
class Tally:
    """What many draws came to. `failed`: draws in which some bound fell short; `of`: by quantity, statements that did;
    `looseness`: by quantity, bounds over the truth."""

    draws: int = 0
    failed: int = 0
    of: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    looseness: dict[str, list[float]] = field(default_factory=dict)

    def add(self, checked: Iterator[tuple[Statement, float]]) -> None:
        short = 0
        for statement, truth in checked:
            if statement.bound is None:
                continue
            fell = statement.bound < truth - 1e-12
            short += fell
            self.of[statement.quantity] += fell
            self.made[statement.quantity] += 1
            if truth > 0:
                self.looseness.setdefault(statement.quantity, []).append(statement.bound / truth)
        self.draws += 1
        self.failed += short > 0


def tally(worlds: list[World], samples: int, confidence: float, draws: int = 1000, seed: int = 0) -> Tally:
    """Many certificates on independent outputs, one of each world."""
    found = Tally()
    for rng in np.random.default_rng(seed).spawn(draws):
        outputs = [world.drawn(samples, rng, str(number)) for number, world in enumerate(worlds)]
        stated = state(outputs, samples, confidence)
        found.add((each, worlds[int(each.output)].truth(each)) for each in stated)
    return found


def most_failures(trials: int, error: float) -> int:
    """How often something that fails with a probability of at most `error` may fail, before a test that has false
    alarms with a probability below FALSE_ALARM says that it fails more often."""
    return int(stats.binom.isf(FALSE_ALARM, trials, error))
