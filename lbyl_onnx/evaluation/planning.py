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
from ..calibration.samples_used import SamplesUsed
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
from .inspection import analyse_for, analysed, file_report
from .judging import Judging
from .plan_file import PlanReport
from .planned import SHARES, FrontierPoint, frontier_point, planned_groups
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
        self._judging = Judging(source, given, None, options.samples)
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
        frontier = self._frontier(planner, calibration, before.macs)
        try:
            chosen = in_two_rounds(
                planner,
                options.prune.targets,
                lambda plan: analysed(self._restored(analysis, plan, calibration), options),
            )
        except NothingToRemove:
            if self._asked:
                raise
            chosen = planner.plan_of(np.zeros(len(analysis.groups), np.int64))
        found = PlanReport(
            versions=Versions(version("lbyl-onnx"), ort.__version__, options.run.provider),
            options=options,
            input=before,
            groups=planned_groups(planner, chosen),
            frontier=frontier,
            calibration=calibration.source,
            samples=self._judging.used(calibration, SamplesUsed()),
        )
        tell.end()
        return found

    def _frontier(self, planner: Planner, calibration: Calibration, macs: int) -> tuple[FrontierPoint, ...]:
        whole = float(planner.costs.macs(np.zeros(len(planner.analysis.groups))))
        samples = self._judging.samples(macs)
        found = []
        for share in SHARES:
            try:
                counts = planner.counts([Limit("macs", planner.costs.macs, share * whole)])
            except OutOfReach:
                break
            point = frontier_point(planner, share, counts)
            if share in MEASURED and counts.any():
                point = self._tried(point, planner.analysis, planner.plan_of(counts), calibration, samples)
            found.append(point)
        return tuple(found)

    def _tried(
        self, point: FrontierPoint, analysis: Analysis, plan: Plan, calibration: Calibration, samples: SampleSet
    ) -> FrontierPoint:
        """The point with how far the outputs move, on samples that nothing was fitted to."""
        restored = self._restored(analysis, plan, calibration)
        return replace(
            point, measured=compare(self._source, restored, samples, self._options.run, timed=False).divergence
        )

    def _restored(self, analysis: Analysis, plan: Plan, calibration: Calibration) -> Model:
        options = self._options
        task = RestoreTask(analysis, plan, options.prune, options.run, calibration, self._telling.layer)
        return self._restoration.restore(task).model
