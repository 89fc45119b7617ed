"""What trial results do to the outputs: of plans, on samples that the results were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import onnxruntime as ort

from ..calibration.samples import Calibration
from ..calibration.user_samples import SampleSet
from ..model.model import Model
from ..model.session import feed_batches, open_session
from ..options import RunOptions
from ..selection.plan import Plan
from .comparison import Comparison
from .output_errors import OutputErrors
from .records import mean_divergence
from .verdict import answers

Restore = Callable[[Plan, Calibration | None], Model]
"""Makes the result of a plan from a calibration."""


@dataclass(frozen=True)
class Trial:
    """One way to try a plan: restore it from a `calibration`, judge it on `samples`."""

    calibration: Calibration | None
    samples: SampleSet


class Judge:
    """What plans do to the outputs of `original`, over all `trials`: `restore` makes the result of a plan from a
    calibration."""

    def __init__(
        self,
        original: Model,
        restore: Restore,
        trials: Sequence[Trial],
        runtime: RunOptions,
    ) -> None:
        self._original, self._restore, self._trials, self._runtime = original, restore, trials, runtime

    @cached_property
    def _before(self) -> ort.InferenceSession:
        return open_session(self._original, self._runtime)

    def loss(self, plan: Plan) -> float:
        """Points of accuracy: measured where the samples have labels, else the upper end of the interval of those
        expected; for outputs that are no classes the share of their energy that is error, in per cent."""
        outputs: dict[str, OutputErrors] = {}
        for comparison in self._comparisons(plan, outputs):
            first, second = comparison.accuracy("before"), comparison.accuracy("after")
            if first is not None and second is not None:
                return 100 * (first - second)
        return max((_points(each) for each in outputs.values()), default=0.0)

    def divergence(self, plan: Plan) -> float:
        """How far the outputs move (`records.mean_divergence`)."""
        outputs: dict[str, OutputErrors] = {}
        for _ in self._comparisons(plan, outputs):
            pass
        return mean_divergence([each.result() for each in outputs.values()])

    def _comparisons(self, plan: Plan, outputs: dict[str, OutputErrors]) -> Iterator[Comparison]:
        """The comparison of each trial, all of which add to `outputs`."""
        before = self._before
        for trial in self._trials:
            after = open_session(self._restore(plan, trial.calibration), self._runtime)
            least = len(next(iter(next(feed_batches(before, trial.samples.inputs, 1)).values())))
            comparison = Comparison(trial.samples, least, outputs)
            comparison.run(before, after)
            yield comparison


def across_folds(
    original: Model, restore: Restore, calibration: Calibration | None, runtime: RunOptions
) -> Callable[[Plan], float] | None:
    """How far the outputs move by a plan, by trials on all folds; None where there are not two."""
    if calibration is None or calibration.fold_count < 2:
        return None
    judge = cache(lambda: Judge(original, restore, folds_as_trials(calibration), runtime))
    return lambda plan: judge().divergence(plan)


def folds_as_trials(calibration: Calibration) -> list[Trial]:
    """One trial for each fold, restored from it and judged on the others; of a single fold, on the very samples."""
    found = []
    for fold in range(calibration.fold_count):
        folds = zip(calibration.batches, calibration.folds, strict=True)
        judged = [batch for batch, each in folds if each != fold or calibration.fold_count == 1]
        arrays = {name: np.concatenate([batch[name] for batch in judged]) for name in judged[0]}
        found.append(Trial(calibration.only(fold), SampleSet(arrays, None, calibration.source)))
    return found


def _points(errors: OutputErrors) -> float:
    """What one output lost, in points of accuracy or per cent of its energy."""
    found = errors.result()
    if found.classes is not None and answers(found.classes, found.shape[1]):
        return 100 * found.classes.expected_loss_interval[1]
    return 100 * found.error_share
