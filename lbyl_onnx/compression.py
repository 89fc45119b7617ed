"""The pipeline: load, analyse, choose, restore, cut, validate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from .calibration.samples import Calibration, calibrate
from .calibration.synthetic import Normalisation
from .channels.groups import Analysis, analyse, is_floating
from .channels.probe import probe
from .channels.surgery import cut
from .errors import ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.inspection import file_report, group_reports
from .evaluation.layer_errors import LayerErrors, measure_errors
from .evaluation.records import Report, Validation
from .evaluation.validation import validate
from .model.file import Model, load_model
from .model.initializers import reshare, unshare
from .model.session import open_session, resolve_provider, run
from .restoration.from_activations import LayerFit, fit
from .restoration.from_weights import Outcome, compensate
from .restoration.lbyl import METHODS, Strength
from .selection.elimination import Elimination, rank_units
from .selection.importance import CRITERIA
from .selection.plan import Plan, Selection, choose, compile_pattern, reasons_to_leave

DEFAULT_LAMBDA1 = 100.0
DEFAULT_LAMBDA2 = 1e-3
SUGGESTED_ROUNDING = 8
NOT_FASTER = 1.02
"""Speed-ups up to this are within the noise of a latency measurement."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompressionResult:
    """What `compress` returns: the compressed model and the record of how it came about."""

    compressed: Model
    report: Report

    @property
    def model(self) -> onnx.ModelProto:
        """The compressed model, weights inline (over 2 GB: save with `lbyl_onnx.save`)."""
        return self.compressed.to_proto()


def compress(
    model: str | Path | onnx.ModelProto | Model,
    ratio: float,
    *,
    restore: str = "moments",
    criterion: str = "obs",
    lambda1: float = DEFAULT_LAMBDA1,
    lambda2: float = DEFAULT_LAMBDA2,
    scope: str = "chains",
    round_to: int = 1,
    include: str | None = None,
    exclude: str | None = None,
    calibration: str | Path | Mapping[str, np.ndarray] = "synthetic",
    samples: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    seed: int = 0,
    provider: str = "auto",
    validation: bool = True,
    layer_errors: bool = False,
    progress: Progress | None = None,
) -> CompressionResult:
    """Remove a share of every channel group's units and make up for them in the consumers' weights.

    Args:
        model: a file or a model in memory; it is not changed.
        ratio: share of units to remove from each group, in [0, 1).
        restore: "moments" (fits to activations), "lbyl" (arXiv 2502.08474), "neuron-merging" (Kim et al. 2020), "none".
        criterion: which units go: "obs" (backward elimination on activations), those of least "l1", "l2", "l2-gm" or
            "bn-scale" importance, or "random".
        lambda1, lambda2: LBYL's penalties on the shift of BatchNormalization and on the size of the solution, >= 0.
        scope: "chains" (units that reach no residual sum or Concat) or "all".
        round_to: keep a multiple of this many units per group.
        include, exclude: regular expressions searched in producers' node names.
        calibration: samples for "moments", "obs" and `layer_errors`: "synthetic", a file, a folder or a mapping
            (`calibrate`).
        samples, shapes, normalisation: how many samples, sizes of dynamic inputs, scaling of images (`calibrate`).
        seed: of the random criterion and of synthetic inputs.
        provider: onnxruntime's, "auto", "cpu" or "cuda".
        validation: run both models and compare.
        layer_errors: measure the errors of each layer, by any method, for the report (`GroupReport`).
        progress: called with a word for each stage as it begins.

    Raises:
        UsageError: an option is out of range. ModelError: the model is invalid or onnxruntime refuses it.
        NothingToRemove: no unit can go. ValidationFailed: the result does not do its job.
    """
    started = time.perf_counter()
    tell = progress or (lambda stage: None)
    selection = Selection(ratio, criterion, scope, round_to, include, exclude, seed)
    strength = Strength(lambda1, lambda2)
    _check_options(selection, restore, strength)
    provider = resolve_provider(provider)
    source = model if isinstance(model, Model) else load_model(model)
    tell("analysing")
    working, origins = unshare(source)
    analysis = analyse(working, probe(working, shapes))
    _check_removable(source, analysis, selection)
    measured = None
    needed = restore == "moments" or criterion == "obs"
    if needed or layer_errors:
        tell("sampling")
        measured = calibrate(working, calibration, samples, seed, shapes, normalisation)
    warnings: tuple[str, ...] = ()
    if measured is None and not (isinstance(calibration, str) and calibration == "synthetic"):
        warnings = (f"the calibration samples are not used by --restore {restore} with --criterion {criterion}",)
    try:
        cutting = _cut(analysis, selection, restore, strength, measured, provider, tell)
    except ModelError as error:
        if measured is None or not needed:
            raise
        _check_runs(source, measured, provider)
        warnings = (f"activations cannot be measured ({error}); chosen by l2 and restored by lbyl instead",)
        selection, restore, measured = replace(selection, criterion="l2"), "lbyl", None
        cutting = _cut(analysis, selection, restore, strength, measured, provider, tell)
    if cutting.plan.removes_nothing:
        raise NothingToRemove(_why_nothing(source, [choice.reason for choice in cutting.plan.choices], selection))
    errors, told = _layer_errors(analysis, cutting, strength, measured if layer_errors else None, provider, tell)
    compressed = cutting.model
    reshare(compressed, origins)
    _check_finite(source, compressed)
    tell("validating")
    checked = _validated(source, compressed, provider, seed, shapes, normalisation) if validation else None
    kept = cutting.plan.kept
    report = Report(
        input=file_report(analysis, np.ones_like(kept), source),
        output=file_report(analysis, kept, replace(compressed, path=None)),
        options={"restore": restore, **asdict(selection), **asdict(strength)},
        calibration=None if measured is None else measured.source,
        groups=group_reports(cutting.plan, cutting.outcomes, errors),
        validation=checked,
        seconds=time.perf_counter() - started,
        warnings=warnings + told + _warnings(checked, round_to),
    )
    return CompressionResult(compressed, report)


@dataclass(frozen=True)
class _Cutting:
    plan: Plan
    model: Model
    outcomes: tuple[Outcome, ...]


def _cut(
    analysis: Analysis,
    selection: Selection,
    method: str,
    strength: Strength,
    calibration: Calibration | None,
    provider: str,
    tell: Progress,
) -> _Cutting:
    """Choose, restore by `method` and cut."""
    tell("choosing")
    ranking: Mapping[int, Elimination] = {}
    if selection.criterion == "obs" and calibration is not None:
        ranking = rank_units(analysis, selection, calibration, provider)
    importance = {number: each.importance(analysis.groups[number].units) for number, each in ranking.items()}
    plan = choose(analysis, selection, importance)
    tell("restoring")
    if method == "moments" and calibration is not None:
        model, layers = fit(analysis, plan, calibration, provider, selection.seed)
        return _Cutting(plan, model, fit_outcomes(analysis, plan, layers, ranking))
    restored, outcomes = compensate(analysis, plan, method, strength)
    return _Cutting(plan, cut(analysis, plan.kept, restored), outcomes)


def _layer_errors(
    analysis: Analysis,
    cutting: _Cutting,
    strength: Strength,
    calibration: Calibration | None,
    provider: str,
    tell: Progress,
) -> tuple[tuple[LayerErrors, ...], tuple[str, ...]]:
    """The errors of every group, empty without `calibration`, and warnings."""
    empty = tuple(LayerErrors() for _ in cutting.plan.choices)
    if calibration is None:
        return empty, ()
    tell("measuring")
    try:
        return measure_errors(
            analysis, cutting.plan, cutting.outcomes, strength, cutting.model, calibration, provider
        ), ()
    except ModelError as error:
        return empty, (f"the errors of single layers cannot be measured ({error})",)


def fit_outcomes(
    analysis: Analysis, plan: Plan, layers: Mapping[str, LayerFit], ranking: Mapping[int, Elimination]
) -> tuple[Outcome, ...]:
    """What the fits of single layers mean for each group."""
    nodes = analysis.model.proto.graph.node
    outcomes = []
    for number, choice in enumerate(plan.choices):
        if not choice.removed.any():
            outcomes.append(Outcome())
            continue
        consumers = {axis.name: layers.get(nodes[axis.node].output[0], LayerFit()) for axis in choice.group.consumers}
        touched = {axis.name: nodes[axis.node].output[0] for axis in choice.group.producers + choice.group.consumers}
        fits = {name: done for name, done in consumers.items() if done.error is not None}
        missed = [name for name in consumers if name not in fits]
        note = f"not fitted: {', '.join(missed)}" if missed else None
        outcomes.append(
            Outcome(
                restored="moments" if fits else None,
                note=note if consumers else "no weight consumes these channels",
                error=max((done.error or 0.0 for done in fits.values()), default=None),
                predicted_error=ranking[number].predicted_error(int(choice.removed.sum()))
                if number in ranking
                else None,
                condition=max((done.condition or 0.0 for done in fits.values()), default=None),
                recalibrated=tuple(n for n, output in touched.items() if layers.get(output, LayerFit()).recalibrated),
            )
        )
    return tuple(outcomes)


def _check_options(selection: Selection, restore: str, strength: Strength) -> None:
    if not 0 <= selection.ratio < 1:
        raise UsageError(f"--ratio is {selection.ratio:g}; expected a number in [0, 1), the share of units to remove")
    if restore not in METHODS:
        raise UsageError(f"--restore {restore!r} is unknown; expected one of {', '.join(METHODS)}")
    if selection.criterion not in CRITERIA:
        raise UsageError(f"--criterion {selection.criterion!r} is unknown; expected one of {', '.join(CRITERIA)}")
    if selection.scope not in ("chains", "all"):
        raise UsageError(f"--scope {selection.scope!r} is unknown; expected chains or all")
    if selection.round_to < 1:
        raise UsageError(f"--round-to is {selection.round_to}; expected a whole number of at least 1")
    if selection.seed < 0:
        raise UsageError(f"--seed is {selection.seed}; expected a whole number of at least 0")
    compile_pattern("include", selection.include)
    compile_pattern("exclude", selection.exclude)
    for name, value in asdict(strength).items():
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name} is {value:g}; expected a finite number of at least 0")


def _check_removable(source: Model, analysis: Analysis, selection: Selection) -> None:
    """Raise NothingToRemove, before anything is measured, where no group may lose a unit."""
    reasons = reasons_to_leave(analysis, selection)
    if None not in reasons:
        raise NothingToRemove(_why_nothing(source, reasons, selection))


def _why_nothing(source: Model, reasons: list[str | None], selection: Selection) -> str:
    name = source.path.name if source.path else "the model"
    if not reasons:
        return (
            f"{name}: nothing to remove: it has no Conv, Gemm or MatMul weight whose output channels feed another one"
        )
    told = [reason for reason in reasons if reason]
    if len(told) < len(reasons):
        rounded, advice = "", "raise --ratio"
        if selection.round_to > 1:
            rounded, advice = f", rounded to multiples of {selection.round_to}", "raise --ratio or lower --round-to"
        return f"{name}: nothing to remove at ratio {selection.ratio:g}{rounded}; {advice}"
    common = max(dict.fromkeys(told), key=told.count)
    return f"{name}: nothing to remove in {len(told)} groups; most often: {common} (lbyl-onnx inspect lists all)"


def _check_runs(model: Model, calibration: Calibration, provider: str) -> None:
    """Raise UsageError where it is the user's samples that the model does not take."""
    if calibration.synthetic:
        return
    session = open_session(model, provider)
    try:
        for batch in calibration.batches:
            run(session, batch)
    except ModelError as error:
        raise UsageError(f"the model does not take the calibration samples ({calibration.source}): {error}") from error


def _check_finite(source: Model, compressed: Model) -> None:
    for name, array in compressed.weights.items():
        before = source.weights.get(name)
        if before is not None and is_floating(array) and array is not before:
            ours = array.astype(np.float32)
            if not np.isfinite(ours).all() and np.isfinite(before.astype(np.float32)).all():
                raise ValidationFailed(
                    f"weight {name!r} overflows {array.dtype} after restoring; use --restore none or larger --lambda2"
                )


def _validated(
    source: Model,
    compressed: Model,
    provider: str,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] | None,
    normalisation: Normalisation | None,
) -> Validation:
    try:
        return validate(source, compressed, None, provider, None, seed, shapes, normalisation)
    except ModelError as error:
        raise ValidationFailed(f"the result cannot be compared with the original: {error}") from error


def _warnings(validation: Validation | None, round_to: int) -> tuple[str, ...]:
    if validation is None or validation.speedup > NOT_FASTER:
        return ()
    advice = (
        f"try --round-to {SUGGESTED_ROUNDING} (or {2 * SUGGESTED_ROUNDING})"
        if round_to % SUGGESTED_ROUNDING
        else f"try --round-to {2 * round_to} or a larger --ratio"
    )
    faster = "hardly faster" if validation.speedup > 1 else "not faster"
    return (
        f"the result is {faster}: {validation.latency_after_ms:.3g} ms, original "
        f"{validation.latency_before_ms:.3g} ms; onnxruntime's kernels work in blocks of 8 or 16 channels: {advice}",
    )
