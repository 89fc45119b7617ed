"""The pipeline: load, analyse, measure, choose, restore, cut, validate."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime as ort

from .budgets import DEFAULT, Budget, budgets
from .calibration.samples import EXPECTED, Calibration
from .calibration.samples_used import SamplesUsed
from .calibration.synthetic import AUTO
from .calibration.user_samples import Source, check_source, source_name
from .errors import MeasurementFailed, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.a_priori import pruning_bound
from .evaluation.advice import damage_warnings, ranked_otherwise, speed_warnings, why_nothing
from .evaluation.drop import Judge, judge_of, within_drop
from .evaluation.fast_enough import Made, fast_enough
from .evaluation.inspection import analysed, file_report, group_reports, layer_reports
from .evaluation.judging import NO_LABELS
from .evaluation.layer_errors import measure_errors
from .evaluation.plan_file import PlanReport, carried_out, executed, read_plan
from .evaluation.planned import planned as planned_by
from .evaluation.preparation import Preparation
from .evaluation.records import LayerErrors, Report, Validation, Versions
from .evaluation.rounds import Result, in_two_rounds
from .evaluation.validation import check_finite, compare
from .evaluation.verdict import check_limits
from .model.initializers import reshare
from .model.model import Model
from .model.providers import resolve
from .model.reading import load
from .options import (
    DEFAULT_LAMBDA1,
    DEFAULT_LAMBDA2,
    Limits,
    Normalisation,
    Options,
    PruneOptions,
    RunOptions,
    SampleOptions,
)
from .progress import Listener, Telling
from .restoration.methods import Restored, RestoreTask, restoration_named
from .selection.plan import Plan
from .selection.planner import Planner

logger = logging.getLogger(__name__)

RESTORATION = "lbyl"
"""Stands in where activations cannot be measured."""


@dataclass(frozen=True, repr=False)
class CompressionResult:
    """What `compress` returns: the compressed model and the record of how it came about."""

    compressed: Model
    report: Report

    def __repr__(self) -> str:
        return f"<CompressionResult: {self.report!r}>"

    @property
    def model(self) -> onnx.ModelProto:
        """The compressed model, weights inline (over 2 GB: save with `lbyl_onnx.save`)."""
        return self.compressed.to_proto()


def compress(
    model: str | Path | onnx.ModelProto | Model,
    ratio: float | Literal["auto"] | None = None,
    *,
    restore: str = "moments",
    criterion: str = "obs",
    lambda1: float = DEFAULT_LAMBDA1,
    lambda2: float = DEFAULT_LAMBDA2,
    scope: str = "chains",
    round_to: int | None = None,
    target: Mapping[str, float | str] | None = None,
    allocation: str = "auto",
    plan: PlanReport | str | Path | None = None,
    threads: int | None = None,
    include: str | None = None,
    exclude: str | None = None,
    calibration: Source = AUTO,
    samples: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    seed: int = 0,
    provider: str = "auto",
    custom_ops_library: str | None = None,
    evaluation: Source | None = None,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    validation: bool = True,
    layer_errors: bool = False,
    progress: Listener | None = None,
) -> CompressionResult:
    """Remove units of channel groups, where the outputs lose least, and make up for them in the consumers' weights.

    Args:
        model: a file or a model in memory; it is not changed.
        ratio: as much work as goes with this share of every group's units, in [0, 1), spent where the outputs lose
            least; or by another `allocation` that share itself. None, and no target: {"drop": "1%"}.
        restore: "moments" (fits to activations), "lbyl" (arXiv 2502.08474), "neuron-merging" (Kim et al. 2020), "none".
        criterion: which units go: "obs" (backward elimination on activations), those of least "l1", "l2", "l2-gm" or
            "bn-scale" importance, or "random".
        lambda1: LBYL's penalty on the shift of BatchNormalization, >= 0.
        lambda2: LBYL's penalty on the size of the solution, >= 0.
        scope: "chains" (units that reach no residual sum or Concat) or "all".
        round_to: keep a multiple of this many units per group (None: what the provider's kernels want, 1 if uniform).
        target: budgets that all hold: "macs", "params", "bytes" and "latency", as shares of the original's or absolute
            ("4MB", "5ms"), and "drop", points of accuracy ("1%").
        allocation: "sensitivity" (of the outputs to each group), "uniform" (all groups alike, as in the papers), "auto"
            (uniform unless by "obs") or "global" (one threshold for all groups; `ratio` "auto" looks for a gap).
        plan: what `lbyl_onnx.plan` returned, or a file of it, which is carried out in place of all that.
        threads: of one operator in onnxruntime (None: its choice).
        include: a regular expression searched in producers' node names: only these groups.
        exclude: the same: all groups but these.
        calibration: what activations are measured on: "auto" ("photos" for images of one or three channels, else
            "leaves"), "photos" (crops of photographs), "leaves" (dead leaves), "noise", an .npz file or a mapping with
            an array for each input, first axis = samples, or a folder of images.
        samples: how many samples (None: by their size).
        shapes: sizes of inputs with dynamic axes, by name.
        normalisation: scaling of images (None: ImageNet's for three channels).
        seed: of the random criterion and of synthetic inputs.
        provider: onnxruntime's, "auto", "cpu" or "cuda".
        custom_ops_library: a shared library of operators that the model needs.
        evaluation: labelled samples to compare on: an .npz file or mapping that holds `labels` too, or a folder of
            images in one sub-folder for each class.
        min_agreement: per cent of top-1 answers that the result has to keep.
        min_sqnr: decibels of signal over error that every output has to keep.
        max_drop: points of accuracy on `evaluation` that it may lose.
        validation: run both models and compare, on `evaluation`, or on samples that nothing was fitted to.
        layer_errors: measure the errors of each layer, by any method, for the report (`GroupReport`).
        progress: called with a `Progress` as each stage and layer begins.

    Raises:
        UsageError: an option is out of range.
        ModelError: the model is invalid or onnxruntime refuses it.
        NothingToRemove: no unit can go.
        ValidationFailed: the result does not do its job.
    """
    check_source(calibration, EXPECTED)
    planned = None if plan is None else read_plan(plan)
    if planned is not None and (ratio is not None or target):
        raise UsageError("says already how much goes; leave out ratio and target", "plan")
    targets = budgets(target) or (() if ratio is not None or planned else DEFAULT)
    options = Options(
        PruneOptions(
            ratio, criterion, restore, scope, round_to, include, exclude, lambda1, lambda2, seed, allocation, targets
        ),
        SampleOptions(source_name(calibration), samples, shapes or {}, normalisation, seed),
        resolve(RunOptions(provider, threads, custom_ops_library)),
        Limits(min_agreement, min_sqnr, max_drop),
        None if evaluation is None else source_name(evaluation),
        validation,
        layer_errors,
        None if plan is None else str(plan) if isinstance(plan, str | Path) else "given",
    )
    prepared = Preparation(load(model), options, calibration, evaluation, Telling(progress))
    return compress_prepared(prepared, targets, planned)


def compress_prepared(
    prepared: Preparation, targets: tuple[Budget, ...], planned: PlanReport | None = None, timed: bool = True
) -> CompressionResult:
    """The result of a prepared model within `targets`, whatever others were made of it before, or that of a plan.

    `timed`: take latencies, and plan again what is too slow; without, latencies are not a number, and `targets` may
    hold none. Raises as `compress` does.
    """
    return _Compression(prepared, targets, timed).run(planned)


class _Compression:
    """The stages of one result, and what it has to say of them."""

    def __init__(self, prepared: Preparation, targets: tuple[Budget, ...], timed: bool) -> None:
        self.prepared, self.timed = prepared, timed
        self.source, self.telling, self.judging = prepared.source, prepared.telling, prepared.judging
        self.analysis, self.calibration = prepared.analysis, prepared.calibration
        self.options = replace(prepared.options, prune=replace(prepared.options.prune, targets=targets))
        self.measured = False
        self.fallbacks: list[str] = []
        self.warnings: list[str] = []

    def run(self, planned: PlanReport | None) -> CompressionResult:
        """All stages, or those that a plan leaves to do."""
        prepared, analysis = self.prepared, self.analysis
        used = self.judging.used(self.calibration, planned.samples if planned else SamplesUsed())
        used.write(analysis.model)
        if planned is None:
            prepared.planner.begin(self.options.prune.targets)
        started = time.perf_counter()
        if planned is None:
            judge = judge_of(prepared.planner, self.source, self.restored, self.calibration, self.judging)
            made = fast_enough(prepared.planner, lambda: self.make(prepared.planner, judge))
        else:
            chosen = executed(planned, analysis, prepared.reasons)
            if chosen.removes_nothing:
                raise NothingToRemove(f"{analysis.model.name}: the plan lets no unit go; raise a group's removed")
            made = self.finish(chosen)
        self.telling.end()
        fallbacks = tuple(dict.fromkeys([*prepared.fallbacks, *self.fallbacks]))
        report = Report(
            versions=Versions(version("lbyl-onnx"), ort.__version__, self.options.run.provider),
            options=self.options,
            input=prepared.before,
            output=file_report(analysis, made.plan.kept, replace(made.restored.model, path=None)),
            calibration=self.calibration.source if self.calibration and (prepared.measured or self.measured) else None,
            groups=group_reports(made.plan, made.restored, made.errors),
            validation=made.validation,
            seconds=prepared.seconds + time.perf_counter() - started,
            samples=used,
            bound=pruning_bound(made.restored.model, made.plan, self.options, self.judging),
            fallbacks=fallbacks,
            warnings=(
                *prepared.warnings,
                *self.warnings,
                *fallbacks,
                *speed_warnings(made.validation, self.options.prune),
                *damage_warnings(made.validation, self.options),
            ),
            layers=layer_reports(analysis, made.plan.kept),
            planned=carried_out(planned) if planned else planned_by(prepared.planner, made.plan),
        )
        return CompressionResult(made.restored.model, report)

    def make(self, planner: Planner, judge: Judge | None) -> Made:
        """A plan within the budgets, and what comes of it."""
        self.telling.stage("planning")
        return self.finish(
            self.choose(planner, judge, lambda plan: analysed(self.restored(plan, self.calibration), self.options))
        )

    def finish(self, plan: Plan) -> Made:
        """What comes of a plan."""
        self.telling.stage("restoring")
        task, restored = self.restore(plan, self.calibration)
        for choice, outcome in zip(plan.choices, restored.outcomes, strict=True):
            told = choice.reason or (f"restored with {outcome.restored}" if outcome.restored else outcome.note)
            gone = int(choice.removed.sum())
            logger.info(
                "group %s: %d of %d units go; %s", choice.group.name, gone, choice.group.units, told or "as it is"
            )
        errors = self.measure_layers(task, restored)
        reshare(restored.model, self.prepared.origins)
        return Made(plan, restored, errors, self.validate(restored.model))

    def choose(self, planner: Planner, judge: Judge | None, result: Result) -> Plan:
        """Which units go."""
        prune = planner.options
        targets = prune.targets
        plan = within_drop(planner, targets, judge) if judge else in_two_rounds(planner, targets, result)
        if plan.removes_nothing:
            raise NothingToRemove(why_nothing(self.source, [choice.reason for choice in plan.choices], prune))
        self.warnings += ranked_otherwise([choice.criterion for choice in plan.choices], prune)
        return plan

    def restored(self, plan: Plan, calibration: Calibration | None) -> Model:
        """The model that `restore` makes."""
        return self.restore(plan, calibration)[1].model

    def restore(self, plan: Plan, calibration: Calibration | None) -> tuple[RestoreTask, Restored]:
        """Cut and make up for what went; from weights alone where activations cannot be measured."""
        task = RestoreTask(self.analysis, plan, self.options.prune, self.options.run, calibration, self.telling.layer)
        restoration = self.prepared.restoration
        try:
            restored = restoration.restore(task)
            self.measured |= restoration.needs_samples
        except MeasurementFailed as error:
            self.fallbacks.append(self.prepared.without_samples(RESTORATION, error))
            restored = restoration_named(RESTORATION).restore(task)
        check_finite(self.source, restored.model)
        return task, restored

    def measure_layers(self, task: RestoreTask, restored: Restored) -> tuple[LayerErrors, ...]:
        """What each layer lost, if that was asked for; empty records where it was not or cannot be measured."""
        empty = tuple(LayerErrors() for _ in task.plan.choices)
        if not self.options.layer_errors or self.calibration is None:
            return empty
        self.telling.stage("measuring")
        try:
            errors = measure_errors(task, restored, self.calibration)
            self.measured = True
            return errors
        except MeasurementFailed as error:
            self.fallbacks.append(f"the errors of single layers cannot be measured ({error})")
            return empty

    def validate(self, compressed: Model) -> Validation | None:
        """Both models side by side, if that was asked for, on samples that nothing was fitted to. Raises
        ValidationFailed where the result breaks a limit."""
        if not self.options.validation:
            return None
        self.telling.stage("validating")
        samples = self.judging.samples
        try:
            validation = compare(self.source, compressed, samples, self.options.run, self.timed)
        except ModelError as error:
            raise ValidationFailed(f"the result cannot be compared with the original: {error}") from error
        if self.judging.evaluation is not None and validation.accuracy_before is None:
            raise UsageError(f"{samples.source}: {NO_LABELS}", "eval")
        if validation.verdict is not None:
            logger.info("verdict: %s, %s", validation.verdict.level, validation.verdict.reason)
        check_limits(validation, self.options.limits)
        return validation
