"""`plan`: sensitivities and the frontier of a model, without writing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..budgets import DROP, budgets
from ..calibration.samples import EXPECTED
from ..calibration.samples_used import SamplesUsed
from ..calibration.synthetic import AUTO
from ..calibration.user_samples import Source, check_source, source_name
from ..errors import NothingToRemove, UsageError
from ..model.model import Model
from ..model.providers import resolve
from ..model.reading import load
from ..options import Normalisation, Options, PruneOptions, RunOptions, SampleOptions
from ..progress import Listener, Telling
from ..restoration.methods import RestoreTask
from ..selection.plan import Plan
from ..selection.planner import Planner
from .inspection import analysed
from .plan_file import PlanReport
from .planned import FrontierPoint, frontier_points, planned_groups
from .preparation import Preparation
from .records import Versions
from .rounds import in_two_rounds
from .validation import compare

MEASURED = (0.9, 0.8, 0.7)
"""Those at which the result is made and run."""
DEFAULT = {"macs": 0.8}


def plan(
    model: str | Path | onnx.ModelProto | Model,
    ratio: float | None = None,
    *,
    target: Mapping[str, float | str] | None = None,
    scope: str = "chains",
    round_to: int | None = None,
    include: str | None = None,
    exclude: str | None = None,
    calibration: Source = AUTO,
    samples: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    custom_ops_library: str | None = None,
    progress: Listener | None = None,
) -> PlanReport:
    """What each group of a model is worth to its outputs, what ten budgets would cost, and a plan for one of them.

    Arguments are those of `compress`; the plan is for `ratio` or `target` (None: {"macs": 0.8}), which may not be a
    loss of accuracy. Where that default is out of reach, no unit is to go. Raises as `compress` does, and
    MeasurementFailed where activations cannot be measured.
    """
    check_source(calibration, EXPECTED)
    asked = budgets(target) or (() if ratio is not None else budgets(DEFAULT))
    if any(each.name == DROP for each in asked):
        raise UsageError("drop is found by trial results, which only compress makes; ask for macs here", "target")
    prune = PruneOptions(
        ratio, scope=scope, round_to=round_to, include=include, exclude=exclude, seed=seed, targets=asked
    )
    sample_options = SampleOptions(source_name(calibration), samples, shapes or {}, normalisation, seed)
    options = Options(prune, sample_options, resolve(RunOptions(provider, threads, custom_ops_library)))
    prepared = Preparation(load(model), options, calibration, None, Telling(progress))
    return _Planning(prepared, asked=bool(target) or ratio is not None).run()


class _Planning:
    """The stages of a plan. `asked`: whether it was a user who named the budget."""

    def __init__(self, prepared: Preparation, asked: bool) -> None:
        assert prepared.calibration is not None, "the default strategies measure"
        self._prepared, self._calibration, self._asked = prepared, prepared.calibration, asked

    def run(self) -> PlanReport:
        prepared, options, tell = self._prepared, self._prepared.options, self._prepared.telling
        analysis, calibration = prepared.analysis, self._calibration
        tell.stage("choosing")
        planner = Planner(analysis, prepared.reasons, options.prune, options.run, calibration, tell.layer)
        tell.stage("planning")
        frontier = tuple(
            self._tried(point, planner.plan_of(counts)) if point.share in MEASURED and counts.any() else point
            for point, counts in frontier_points(planner, planner.counts)
        )
        try:
            chosen = in_two_rounds(planner, options.prune.targets, lambda plan: analysed(self._restored(plan), options))
        except NothingToRemove:
            if self._asked:
                raise
            chosen = planner.plan_of(np.zeros(len(analysis.groups), np.int64))
        found = PlanReport(
            versions=Versions(version("lbyl-onnx"), ort.__version__, options.run.provider),
            options=options,
            input=prepared.before,
            groups=planned_groups(planner, chosen),
            frontier=frontier,
            calibration=calibration.source,
            samples=prepared.judging.used(calibration, SamplesUsed()),
        )
        tell.end()
        return found

    def _tried(self, point: FrontierPoint, plan: Plan) -> FrontierPoint:
        """The point with how far the outputs move, on samples that nothing was fitted to."""
        prepared, restored = self._prepared, self._restored(plan)
        compared = compare(prepared.source, restored, prepared.judging.samples, prepared.options.run, timed=False)
        return replace(point, measured=compared.divergence)

    def _restored(self, plan: Plan) -> Model:
        prepared, options = self._prepared, self._prepared.options
        task = RestoreTask(
            prepared.analysis, plan, options.prune, options.run, self._calibration, prepared.telling.layer
        )
        return prepared.restoration.restore(task).model
