"""What was known of a run's loss before anything was cut, beside what it came to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..bounds import NotCovered, Stretch, as_chosen, at_random, read_stretch, without_units
from ..budgets import DROP, LATENCY
from ..errors import ModelError
from ..model.model import Model
from ..model.session import open_session, run_batches
from ..options import Options
from ..selection.plan import Plan
from .judging import Judging
from .records import PruningBound

RANDOM, BARE = "random", "none"
DELTA = 0.05
MEASURED = (LATENCY, DROP)
"""Budgets that are met by trying what was drawn, which then is no draw any more."""


def pruning_bound(compressed: Model, plan: Plan, options: Options, judging: Judging) -> PruningBound | None:
    """The bound for what a plan takes away, on the samples that the run is judged on; None where what went was made up
    for, which bounds do not know of, or nothing is compared."""
    if options.prune.restore != BARE or not options.validation:
        return None
    inputs = judging.samples.inputs
    try:
        stretch = read_stretch(judging.model, inputs, options.run)
        removed = _removed(stretch, plan)
    except (NotCovered, ModelError) as error:
        return PruningBound(reason=str(error))
    drawn = {choice.criterion for choice in plan.choices if choice.removed.any()} == {RANDOM}
    if drawn and any(target.name in MEASURED for target in options.prune.targets):
        return PruningBound(reason="how much goes was settled by trying what was drawn")
    if drawn and not all(choice.group.free.all() for choice in plan.choices if choice.removed.any()):
        return PruningBound(reason="units were drawn among some of a group only")
    bound = (
        at_random(stretch, [int(gone.sum()) for gone in removed])
        if drawn
        else as_chosen(stretch, without_units(stretch, removed))
    )
    measured, size = _moved(judging.model, compressed, inputs, options)
    return PruningBound(drawn, bound.root, measured, size, DELTA, bound.gap(DELTA))


def _removed(stretch: Stretch, plan: Plan) -> list[np.ndarray]:
    """Which units of each layer's input go, bool (units,). Raises NotCovered where the plan removes others."""
    gone = {
        axis.name: choice.removed[axis.units]
        for choice in plan.choices
        if choice.removed.any()
        for axis in choice.group.producers
        if (axis.units >= 0).all()
    }
    found = [gone.get(layer.producer or "", np.zeros(layer.linear.unit_count, bool)) for layer in stretch.layers]
    units = sum(int(mask.sum()) for mask in found)
    if units != sum(int(choice.removed.sum()) for choice in plan.choices):
        raise NotCovered("units that go are not those between layers in a row")
    return found


def _moved(
    original: Model, compressed: Model, inputs: Mapping[str, np.ndarray], options: Options
) -> tuple[float, float]:
    """The roots of the means of |y' - y|² and of |y|² over samples."""
    sessions = (open_session(model, options.run) for model in (original, compressed))
    before, after = (run_batches(session, dict(inputs))[0].astype(np.float64) for session in sessions)
    sums = ((value.reshape(len(value), -1) ** 2).sum(axis=1).mean() for value in (after - before, before))
    moved, size = (float(np.sqrt(each)) for each in sums)
    return moved, size
