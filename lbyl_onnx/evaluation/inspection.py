"""What a model holds: its size, its channel groups, and the records that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from ..channels.groups import Analysis, ChannelGroup, analyse, is_floating, node_macs
from ..channels.probe import probe
from ..model.file import Model, load_model
from ..model.initializers import unshare
from ..restoration.from_weights import Outcome
from ..selection.plan import Plan
from .layer_errors import LayerErrors
from .records import FileReport, GroupReport, Inspection


def inspect(
    model: str | Path | onnx.ModelProto | Model, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Inspection:
    """The channel groups of a model: what could be removed, and why the rest could not.

    `shapes`: sizes of dynamic inputs, by name. Raises ModelError where the model is invalid or onnxruntime refuses it,
    UsageError where the shapes do not fit.
    """
    source = model if isinstance(model, Model) else load_model(model)
    working, _ = unshare(source)
    analysis = analyse(working, probe(working, shapes))
    kept = np.ones(analysis.classes.count, bool)
    groups = tuple(_group_report(group, group.units, group.frozen_reason) for group in analysis.groups)
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


def group_reports(
    plan: Plan, outcomes: tuple[Outcome, ...], errors: tuple[LayerErrors, ...]
) -> tuple[GroupReport, ...]:
    """One record for each group, in the plan's order."""
    return tuple(
        _group_report(choice.group, int((~choice.removed).sum()), choice.reason, outcome, error)
        for choice, outcome, error in zip(plan.choices, outcomes, errors, strict=True)
    )


def _group_report(
    group: ChannelGroup,
    units_after: int,
    reason: str | None,
    outcome: Outcome | None = None,
    errors: LayerErrors | None = None,
) -> GroupReport:
    found = {**asdict(outcome or Outcome()), **asdict(errors or LayerErrors())}
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
        **found,
    )
