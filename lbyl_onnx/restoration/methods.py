"""The one place where restorations are registered, what they are given and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..calibration.samples import Calibration
from ..channels.folding import ProducerLayer
from ..channels.groups import Analysis, ChannelGroup
from ..errors import UsageError
from ..model.model import Model
from ..options import PruneOptions, RunOptions
from ..progress import Tell, untold
from ..selection.plan import Plan


@dataclass(frozen=True)
class RestoreTask:
    """What there is to restore. `calibration`: samples, None for a method that needs none; `tell`: what hears of
    progress."""

    analysis: Analysis
    plan: Plan
    options: PruneOptions
    runtime: RunOptions
    calibration: Calibration | None = None
    tell: Tell = untold


@dataclass(frozen=True)
class Outcome:
    """What became of one group.

    `restored`: the method applied to at least one consumer, or None; `note`: why a consumer was left as it was.
    `error`: the relative error that the restoration leaves, in the measure of its method (None: nothing removed or
    nothing restored): for `lbyl` and `neuron-merging` the share of the removed filters' energy, for `moments` the
    largest share of a consumer's output variance on the calibration samples. `condition`: the largest condition number
    of a consumer's system; `recalibrated`: nodes among producers and consumers whose outputs had mean and variance
    matched.
    """

    restored: str | None = None
    note: str | None = None
    error: float | None = None
    condition: float | None = None
    recalibrated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Restored:
    """The cut model and every group's outcome, in the plan's order."""

    model: Model
    outcomes: tuple[Outcome, ...]


Mixer = Callable[[ProducerLayer, np.ndarray, np.ndarray, PruneOptions], np.ndarray]
"""Gives S, float64 (removed, kept), by which kept channels stand in for removed ones: of a layer, with the numbers of
both."""


@dataclass(frozen=True)
class Restoration:
    """A registered method. `restore`: cuts and restores; `mixer`: its S, where it has one; `options`: those of
    PruneOptions that only it reads; `obstacle`: why it cannot restore a group, which then stays whole;
    `changes_weights`: whether it makes up for anything."""

    name: str
    restore: Callable[[RestoreTask], Restored]
    needs_samples: bool = False
    mixer: Mixer | None = None
    options: tuple[str, ...] = ()
    obstacle: Callable[[Analysis, ChannelGroup], str | None] = lambda analysis, group: None
    changes_weights: bool = True


RESTORATIONS: dict[str, Restoration] = {}


def restoration_named(name: str) -> Restoration:
    """The method of that name; UsageError where there is none."""
    if not isinstance(name, str) or name not in RESTORATIONS:
        raise UsageError(f"{name!r} is unknown; expected one of {', '.join(RESTORATIONS)}", "restore")
    return RESTORATIONS[name]


def register(method: Restoration) -> Restoration:
    """Add a method to those that can be asked for by name."""
    if method.name in RESTORATIONS:
        raise ValueError(f"restoration {method.name!r} is registered twice")
    RESTORATIONS[method.name] = method
    return method
