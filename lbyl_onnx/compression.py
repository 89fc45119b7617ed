"""The pipeline: load, analyse, choose, restore, cut, validate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from .compensation import Outcome, compensate
from .criteria import CRITERIA
from .errors import ModelError, NothingToRemove, UsageError, ValidationFailed
from .groups import Analysis, ChannelGroup, analyse, is_floating, node_macs
from .model_file import Model, load_model
from .plan import Plan, Selection, choose
from .probe import probe
from .report import FileReport, GroupReport, Inspection, Report, Validation
from .restoration import METHODS, Strength
from .runtime import resolve_provider
from .sharing import reshare, unshare
from .surgery import cut
from .validation import validate

DEFAULT_LAMBDA1 = 100.0
DEFAULT_LAMBDA2 = 1e-3
SUGGESTED_ROUNDING = 8
NOT_FASTER = 1.02
"""Speed-ups up to this are within the noise of a latency measurement."""


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
    restore: str = "lbyl",
    criterion: str = "l2",
    lambda1: float = DEFAULT_LAMBDA1,
    lambda2: float = DEFAULT_LAMBDA2,
    scope: str = "chains",
    round_to: int = 1,
    include: str | None = None,
    exclude: str | None = None,
    seed: int = 0,
    provider: str = "auto",
    validation: bool = True,
    progress: Callable[[str], None] | None = None,
) -> CompressionResult:
    """Remove a share of every channel group's units and make up for them in the consumers' weights.

    Args:
        model: a file or a model in memory; it is not changed.
        ratio: share of units to remove from each group, in [0, 1).
        restore: "lbyl" (arXiv 2502.08474), "neuron-merging" (Kim et al. 2020) or "none".
        criterion: which units go: least "l1", "l2", "l2-gm", "bn-scale" importance, or "random".
        lambda1, lambda2: LBYL's penalties on the shift of BatchNormalization and on the size of the solution, >= 0.
        scope: "chains" (units that reach no residual sum or Concat) or "all".
        round_to: keep a multiple of this many units per group.
        include, exclude: regular expressions searched in producers' node names.
        seed: of the random criterion and of synthetic inputs.
        provider: onnxruntime's, "auto", "cpu" or "cuda".
        validation: run both models and compare.
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
    resolve_provider(provider)
    tell("loading")
    source = model if isinstance(model, Model) else load_model(model)
    tell("analysing")
    working, origins = unshare(source)
    analysis = analyse(working, probe(working))
    tell("choosing")
    plan = choose(analysis, selection)
    if plan.removes_nothing:
        raise NothingToRemove(_why_nothing(source, plan, selection))
    tell("restoring")
    restored, outcomes = compensate(analysis, plan, restore, strength)
    tell("cutting")
    compressed = cut(analysis, plan.kept, restored)
    reshare(compressed, origins)
    _check_finite(source, compressed)
    tell("validating")
    checked = _validated(source, compressed, provider, seed) if validation else None
    report = Report(
        input=file_report(analysis, np.ones_like(plan.kept), source),
        output=file_report(analysis, plan.kept, compressed),
        options={"restore": restore, **asdict(selection), **asdict(strength)},
        groups=group_reports(plan, outcomes),
        validation=checked,
        seconds=time.perf_counter() - started,
        warnings=_warnings(checked, round_to),
    )
    return CompressionResult(compressed, report)


def inspect(model: str | Path | onnx.ModelProto | Model) -> Inspection:
    """The channel groups of a model: what could be removed, and why the rest could not.

    Raises ModelError where the model is invalid or onnxruntime refuses it.
    """
    source = model if isinstance(model, Model) else load_model(model)
    working, _ = unshare(source)
    analysis = analyse(working, probe(working))
    kept = np.ones(analysis.classes.count, bool)
    groups = tuple(_group_report(group, group.units, group.frozen_reason, Outcome()) for group in analysis.groups)
    return Inspection(file_report(analysis, kept, source), groups)


def file_report(analysis: Analysis, kept: np.ndarray, model: Model) -> FileReport:
    """Size of `model`, which is the analysed one with the classes in `kept` (bool, (classes,))."""
    shapes = {name: analysis.kept_shape(name, kept) for name in analysis.probe.tensors}
    nodes = analysis.model.proto.graph.node
    return FileReport(
        path=None if model.path is None else str(model.path),
        parameters=sum(array.size for array in model.weights.values() if is_floating(array)),
        macs=sum(node_macs(node, shapes) for node in nodes) // analysis.probe.batch,
        bytes=model.bytes,
    )


def group_reports(plan: Plan, outcomes: tuple[Outcome, ...]) -> tuple[GroupReport, ...]:
    """One record for each group, in the plan's order."""
    return tuple(
        _group_report(choice.group, int((~choice.removed).sum()), choice.reason, outcome)
        for choice, outcome in zip(plan.choices, outcomes, strict=True)
    )


def _group_report(group: ChannelGroup, units_after: int, reason: str | None, outcome: Outcome) -> GroupReport:
    return GroupReport(
        name=group.name,
        producers=tuple(axis.name for axis in group.producers),
        consumers=tuple(axis.name for axis in group.consumers),
        units_before=group.units,
        units_after=units_after,
        parameters=group.parameters,
        macs=group.macs,
        coupled=group.coupled,
        frozen_reason=reason,
        restored=outcome.restored,
        note=outcome.note,
        error=outcome.error,
    )


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
    for name, value in asdict(strength).items():
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name} is {value:g}; expected a finite number of at least 0")


def _why_nothing(source: Model, plan: Plan, selection: Selection) -> str:
    name = source.path.name if source.path else "the model"
    if not plan.choices:
        return (
            f"{name}: nothing to remove: it has no Conv, Gemm or MatMul weight whose output channels feed another one"
        )
    reasons = [choice.reason for choice in plan.choices if choice.reason]
    if not reasons:
        return (
            f"{name}: nothing to remove at ratio {selection.ratio:g}, rounded to multiples of {selection.round_to}; "
            "raise --ratio"
        )
    common = max(set(reasons), key=reasons.count)
    return (
        f"{name}: nothing to remove in {len(plan.choices)} groups; most often: {common} (lbyl-onnx inspect lists all)"
    )


def _check_finite(source: Model, compressed: Model) -> None:
    for name, array in compressed.weights.items():
        before = source.weights.get(name)
        if before is not None and is_floating(array) and array is not before:
            ours = array.astype(np.float32)
            if not np.isfinite(ours).all() and np.isfinite(before.astype(np.float32)).all():
                raise ValidationFailed(
                    f"weight {name!r} overflows {array.dtype} after restoring; use --restore none or larger --lambda2"
                )


def _validated(source: Model, compressed: Model, provider: str, seed: int) -> Validation:
    try:
        return validate(source, compressed, provider=provider, seed=seed)
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
    return (
        f"the result is not faster: {validation.latency_after_ms:.3g} ms, original "
        f"{validation.latency_before_ms:.3g} ms; onnxruntime's kernels work in blocks of 8 or 16 channels: {advice}",
    )
