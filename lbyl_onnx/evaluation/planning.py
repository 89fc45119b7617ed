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
from ..calibration.samples import EXPECTED, Calibration, calibrate
from ..calibration.synthetic import AUTO
from ..calibration.user_samples import SampleSet, Source, check_source
from ..channels.groups import Analysis
from ..errors import NothingToRemove, UsageError
from ..model.initializers import unshare
from ..model.model import Model
from ..model.providers import resolve
from ..model.reading import load
from ..options import Normalisation, Options, PruneOptions, RunOptions, SampleOptions
from ..progress import Listener, Telling
from ..restoration.methods import RestoreTask, restoration_named
from ..selection.allocation import Limit, OutOfReach
from ..selection.plan import Plan
from ..selection.planner import Planner
from .inspection import analyse_for, file_report
from .judging import Judging
from .plan_file import FrontierPoint, PlanReport, planned_groups
from .records import Versions
from .validation import compare

SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4)
"""Multiply-accumulates that stay, of the frontier's budgets."""
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
    given = calibration if isinstance(calibration, str | Path) else "arrays"
    prune = PruneOptions(
        ratio, scope=scope, round_to=round_to, include=include, exclude=exclude, seed=seed, targets=asked
    )
    sample_options = SampleOptions(str(given), samples, shapes or {}, normalisation, seed)
    options = Options(prune, sample_options, resolve(RunOptions(provider, threads, custom_ops_library)))
    return _Planning(load(model), options, calibration, Telling(progress), bool(target) or ratio is not None).run()


class _Planning:
    def __init__(self, source: Model, options: Options, given: Source, telling: Telling, asked: bool) -> None:
        self._source, self._options, self._given, self._telling = source, options, given, telling
        self._asked = asked
        self._restoration = restoration_named(options.prune.restore)

    def run(self) -> PlanReport:
        options, tell = self._options, self._telling
        tell.stage("analysing")
        working, _ = unshare(self._source)
        analysis, reasons = analyse_for(working, options, self._restoration)
        before = file_report(analysis, np.ones(analysis.classes.count, bool), self._source)
        tell.stage("sampling")
        calibration = calibrate(working, self._given, options.samples, before.macs, options.run)
        tell.stage("choosing")
        planner = Planner(analysis, reasons, options.prune, options.run, calibration, tell.layer)
        tell.stage("planning")
        try:
            chosen = planner.plan(options.prune.targets)
        except NothingToRemove:
            if self._asked:
                raise
            chosen = planner.plan_of(np.zeros(len(analysis.groups), np.int64))
        found = PlanReport(
            versions=Versions(version("lbyl-onnx"), ort.__version__, options.run.provider),
            options=options,
            input=before,
            groups=planned_groups(planner, chosen),
            frontier=self._frontier(planner, calibration, before.macs),
            calibration=calibration.source,
        )
        tell.end()
        return found

    def _frontier(self, planner: Planner, calibration: Calibration, macs: int) -> tuple[FrontierPoint, ...]:
        whole = float(planner.costs.macs(np.zeros(len(planner.analysis.groups))))
        samples = Judging(self._source, self._given, None, self._options.samples).samples(macs)
        found = []
        for share in SHARES:
            try:
                counts = planner.counts([Limit("macs", planner.costs.macs, share * whole)])
            except OutOfReach:
                break
            left = int(planner.costs.macs(counts)), int(planner.costs.parameters(counts))
            point = FrontierPoint(share, *left, planner.divergence(counts))
            if share in MEASURED and counts.any():
                point = self._tried(point, planner.analysis, planner.plan_of(counts), calibration, samples)
            found.append(point)
        return tuple(found)

    def _tried(
        self, point: FrontierPoint, analysis: Analysis, plan: Plan, calibration: Calibration, samples: SampleSet
    ) -> FrontierPoint:
        """The point with how far the outputs move, on samples that nothing was fitted to."""
        options = self._options
        self._telling.stage("restoring")
        task = RestoreTask(analysis, plan, options.prune, options.run, calibration, self._telling.layer)
        restored = self._restoration.restore(task).model
        return replace(point, measured=compare(self._source, restored, samples, options.run, timed=False).divergence)
