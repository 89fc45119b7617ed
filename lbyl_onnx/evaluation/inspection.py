"""What a model holds: its size, its channel groups, and the records that say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from ..calibration.runnable_sizes import at_runnable_sizes
from ..channels.groups import Analysis, ChannelGroup, analyse
from ..channels.macs import mac_factors, node_macs
from ..channels.probe import probe
from ..errors import NothingToRemove
from ..model.graph import GraphIndex
from ..model.initializers import unshare
from ..model.model import Model
from ..model.reading import load
from ..options import Options, RunOptions, SampleOptions
from ..restoration.methods import Outcome, Restoration, Restored
from ..selection.plan import Choice, Plan, reasons_to_leave
from .advice import why_nothing
from .records import FileReport, GroupReport, Inspection, LayerErrors, LayerReport


def inspect(
    model: str | Path | onnx.ModelProto | Model,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    custom_ops_library: str | None = None,
) -> Inspection:
    """The channel groups of a model: what could be removed, and why the rest could not.

    Args:
        model: a file or a model in memory.
        shapes: sizes of inputs with dynamic axes, by name.
        custom_ops_library: a shared library of operators that the model needs.

    Raises:
        ModelError: the model is invalid or onnxruntime refuses it.
        UsageError: the shapes do not fit.
    """
    source, runtime = load(model), RunOptions(custom_ops_library=custom_ops_library)
    options = at_runnable_sizes(source, SampleOptions(shapes=shapes or {}), runtime)
    working, _ = unshare(source)
    analysis = analyse(working, probe(working, options.shapes, runtime))
    whole = np.ones(analysis.classes.count, bool)
    choices = [
        Choice(group, np.zeros(group.units, bool), group.frozen_reason or group.unreadable) for group in analysis.groups
    ]
    groups = tuple(_group_report(choice, Outcome(), LayerErrors()) for choice in choices)
    return Inspection(file_report(analysis, whole, source), groups)


def analyse_for(model: Model, options: Options, restoration: Restoration) -> tuple[Analysis, list[str | None]]:
    """Channel groups, and why each stays whole under the options or because it could not be restored, None where units
    may go. Raises NothingToRemove where all of them stay."""
    analysis = analysed(model, options)
    reasons = reasons_to_leave(analysis, options.prune, lambda group: restoration.obstacle(analysis, group))
    if None not in reasons:
        raise NothingToRemove(why_nothing(model, reasons, options.prune))
    return analysis, reasons


def analysed(model: Model, options: Options) -> Analysis:
    """The channel groups of a model under the options of a run."""
    return analyse(model, probe(model, options.samples.shapes, options.run))


def file_report(analysis: Analysis, kept: np.ndarray, model: Model) -> FileReport:
    """Size of `model`, which is the analysed one with the classes in `kept` (bool, (classes,))."""
    shapes = {name: analysis.kept_shape(name, kept) for name in analysis.probe.tensors}
    nodes = analysis.model.proto.graph.node
    return FileReport(
        path=None if model.path is None else str(model.path),
        parameters=sum(model.weights[name].size for name in GraphIndex(model).parameters()),
        macs=sum(node_macs(node, shapes) for node in nodes) // analysis.probe.batch,
        bytes=model.bytes_on_disk,
    )


def layer_reports(analysis: Analysis, kept: np.ndarray) -> tuple[LayerReport, ...]:
    """One record for each layer of weights, once only the classes in `kept` (bool, (classes,)) are left."""
    whole = {name: facts.shape for name, facts in analysis.probe.tensors.items()}
    left = {name: analysis.kept_shape(name, kept) for name in whole}
    index, found = GraphIndex(analysis.model), []
    for node in index.nodes:
        if not any(map(index.constant, node.input[:2])) or not mac_factors(node, whole):
            continue
        made, axis = node.output[0], 1 if "Conv" in node.op_type else -1
        macs = [node_macs(node, shapes) // analysis.probe.batch for shapes in (whole, left)]
        name = node.name or made
        found.append(LayerReport(name, node.op_type, whole[made][axis], left[made][axis], *macs))
    return tuple(found)


def group_reports(plan: Plan, restored: Restored, errors: tuple[LayerErrors, ...]) -> tuple[GroupReport, ...]:
    """One record for each group, in the plan's order."""
    return tuple(map(_group_report, plan.choices, restored.outcomes, errors))


def _group_report(choice: Choice, outcome: Outcome, errors: LayerErrors) -> GroupReport:
    group: ChannelGroup = choice.group
    return GroupReport(
        name=group.name,
        producers=tuple(axis.name for axis in group.producers),
        consumers=tuple(axis.name for axis in group.consumers),
        units_before=group.units,
        units_after=int((~choice.removed).sum()),
        parameters=group.parameters,
        macs=group.macs,
        coupled=group.coupled,
        frozen_reason=choice.reason,
        criterion=choice.criterion,
        predicted_error=choice.predicted_error,
        outcome=outcome,
        errors=errors,
    )
