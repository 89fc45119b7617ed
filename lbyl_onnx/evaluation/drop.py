"""As small as it gets within a loss of accuracy: how much a plan loses, and the search for the least that does not lose
more.

Where there are no labels, the loss is what is expected on samples that nothing was fitted to: of the user's own samples
trial results are restored from one fold and judged on the other, for all folds; where samples are made up, they are
judged on crops of other pictures, which the comparison at the end does not see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime as ort

from ..budgets import DROP, Budget
from ..calibration.changes import energy_share
from ..calibration.samples import Calibration
from ..calibration.user_samples import SampleSet
from ..errors import NothingToRemove, ValidationFailed
from ..model.model import Model
from ..model.session import feed_batches, open_session, rows_of
from ..options import RunOptions
from ..selection.allocation import Limit, OutOfReach
from ..selection.plan import Plan
from ..selection.planner import Planner
from .comparison import Comparison
from .judging import Judging
from .output_errors import OutputErrors

FIRST_SHARE = 0.08
"""Share of the multiply-accumulates that is taken away first."""
LEAST_SHARE = 0.005
PRECISION = 0.15
"""Where the search ends: a share of the share that is too much."""
ROUNDING = 1e-9
"""Of shares."""
MOST_LESS = 8.0
"""How many times smaller a share is than one that loses too much, at most."""


Restore = Callable[[Plan, Calibration | None], Model]
"""Makes the result of a plan from a calibration."""


@dataclass(frozen=True)
class Trial:
    """One way to try a plan: restore it from a `calibration`, judge it on `samples`."""

    calibration: Calibration | None
    samples: SampleSet


class Judge:
    """What plans cost in points of accuracy, each tried once: `restore` makes the result of one from a calibration."""

    def __init__(
        self,
        original: Model,
        restore: Restore,
        trials: Sequence[Trial],
        runtime: RunOptions,
    ) -> None:
        self._original, self._restore, self._trials, self._runtime = original, restore, trials, runtime
        self._losses: dict[bytes, float] = {}

    @cached_property
    def _before(self) -> ort.InferenceSession:
        return open_session(self._original, self._runtime)

    def loss(self, plan: Plan) -> float:
        """Points of accuracy: measured where the samples have labels, else the upper end of the interval of those
        expected; for outputs that are no classes the error's share of what tells samples apart, in per cent. Raises
        NothingToRemove where no output tells."""
        key = b"".join(choice.removed.tobytes() for choice in plan.choices)
        if key not in self._losses:
            self._losses[key] = self._tried(plan)
        return self._losses[key]

    def _tried(self, plan: Plan) -> float:
        before = self._before
        outputs: dict[str, OutputErrors] = {}
        for trial in self._trials:
            after = open_session(self._restore(plan, trial.calibration), self._runtime)
            least = rows_of(next(feed_batches(before, trial.samples.inputs, 1)))
            comparison = Comparison(trial.samples, least, outputs)
            comparison.run(before, after)
            first, second = comparison.accuracy("before"), comparison.accuracy("after")
            if first is not None and second is not None:
                return 100 * (first - second)
        told = [_points(each) for each in outputs.values() if not each.silent]
        if not told:
            raise NothingToRemove(
                f"{self._original.name}: no loss can be told, as no output that can be compared differs between "
                "samples; give samples like those it will see with --calibration, or another budget (--target macs=0.8)"
            )
        return max(told)


def judge_of(
    planner: Planner, original: Model, restore: Restore, calibration: Calibration | None, judging: Judging
) -> Judge | None:
    """The judge of plans where a loss of accuracy is a target; None where it is not."""
    if not any(target.name == DROP for target in planner.options.targets):
        return None
    if judging.evaluation is None and calibration is not None and not calibration.synthetic:
        trials = folds_as_trials(calibration)
    else:
        trials = [Trial(calibration, judging.deciding(planner.analysis.answers))]
    return Judge(original, restore, trials, planner.runtime)


def folds_as_trials(calibration: Calibration) -> list[Trial]:
    """One trial for each fold, restored from it and judged on the others; of a single fold, on the very samples."""
    found = []
    for fold in range(calibration.fold_count):
        folds = zip(calibration.batches, calibration.folds, strict=True)
        judged = [batch for batch, each in folds if each != fold or calibration.fold_count == 1]
        arrays = {name: np.concatenate([batch[name] for batch in judged]) for name in judged[0]}
        found.append(Trial(calibration.only(fold), SampleSet(arrays, None, calibration.source)))
    return found


def within_drop(planner: Planner, targets: Sequence[Budget], judge: Judge) -> Plan:
    """The plan of least multiply-accumulates that meets all `targets`, a loss of accuracy among them.

    Raises NothingToRemove where even the smallest one loses more.
    """
    points = min(target.value for target in targets if target.name == DROP)
    whole = float(planner.costs.macs(np.zeros(len(planner.analysis.groups))))
    others = planner.limits(targets)
    if others:
        planner.plan(targets)
    found: Plan | None = None
    nearest = float("inf")

    def loss_of(share: float) -> float:
        nonlocal found, nearest
        try:
            counts = planner.counts([*others, Limit("macs", planner.costs.macs, (1 - share) * whole)])
        except OutOfReach:
            return math.inf
        plan = planner.plan_of(counts)
        try:
            loss = judge.loss(plan) if counts.any() else 0.0
        except ValidationFailed:  # not finite, or does not run
            loss = float("inf")
        nearest = min(nearest, loss)
        if loss <= points and counts.any():
            found = plan
        return loss

    search = _Search(points)
    while (share := search.next()) is not None:
        search.tell(share, loss_of(share))
    if found is None:
        if not math.isfinite(nearest):
            raise NothingToRemove(
                f"{planner.analysis.model.name}: no group has enough units to lose some; try --round-to 1"
            )
        allowed = math.ceil(10 * nearest) / 10
        raise NothingToRemove(
            f"{planner.analysis.model.name}: no unit can go within {points:g}% of accuracy; the nearest is "
            f"expected to lose up to {allowed:g} (--target drop={allowed:g}% allows that; more samples narrow it down)"
        )
    return found


class _Search:
    """Looks for the largest share that loses no more than so many points, between one that does not and one that does,
    as if the logarithms of shares and losses were on a line."""

    def __init__(self, points: float) -> None:
        self._points = points
        self._low, self._low_loss = 0.0, 0.0
        self._high, self._high_loss = 1.0, math.inf
        self._tried = 0

    def tell(self, share: float, loss: float) -> None:
        """What a share loses."""
        self._tried += 1
        if loss <= self._points:
            self._low, self._low_loss = share, loss
        else:
            self._high, self._high_loss = share, loss

    def next(self) -> float | None:
        """The share to try next; None at the end."""
        low, high, step = self._low, self._high, 1 - PRECISION
        if step * high - low < ROUNDING or high <= LEAST_SHARE:
            return None
        if not self._tried:
            return FIRST_SHARE
        if low == 0:
            return max(high * _within(self._points / self._high_loss, 1 / MOST_LESS, 0.5), LEAST_SHARE)
        if high == 1:
            grown = self._points / self._low_loss if self._tried == 1 and self._low_loss > 0 else 2.0
            return min(low * _within(grown, 1 / step, 2.0), (low + 1) / 2)
        if self._low_loss <= 0 or not math.isfinite(self._high_loss):
            return (low + high) / 2
        way = math.log(self._points / self._low_loss) / math.log(self._high_loss / self._low_loss)
        return max(min(low * (high / low) ** way, high * step), low / step)


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _points(errors: OutputErrors) -> float:
    """What one output lost, in points of accuracy or per cent of what tells samples apart."""
    found = errors.result()
    if found.answers is not None:
        return 100 * found.answers.expected_loss_interval[1]
    return 100 * energy_share(found.told_db)
