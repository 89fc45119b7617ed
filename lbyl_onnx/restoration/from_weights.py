"""Restorations from weights alone: change every consumer so that kept channels stand in for removed ones.

A restoration of a layer is a matrix S, float64 (removed, kept): removed channel j is replaced by the sum of `S[j, k]`
times kept channel k. w and b are the folded filters and biases.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..channels.folding import FoldedReader, ProducerLayer
from ..channels.groups import Analysis, ChannelGroup, WeightAxis
from ..channels.surgery import cut
from ..model.graph import GraphIndex
from ..model.model import Model
from ..options import PruneOptions
from ..selection.plan import Choice
from .lbyl import lbyl
from .methods import Mixer, Outcome, Restoration, Restored, RestoreTask, register
from .neuron_merging import neuron_merging


def restore_nothing(task: RestoreTask) -> Restored:
    """Cut, and leave what stays as it is."""
    model = cut(task.analysis, task.plan.kept)
    return Restored(model, tuple(Outcome() for _ in task.plan.choices))


def mix_filters(task: RestoreTask, name: str, mixer: Mixer) -> Restored:
    """Mix removed filters into kept ones by the S of `mixer`, then cut.

    All decisions rest on the original weights; consumers of several groups are changed by each in turn.
    """
    model = task.analysis.model.copy()
    reader = FoldedReader(task.analysis.model)
    outcomes = []
    for choice in task.plan.choices:
        if choice.removed.any():
            outcomes.append(_restore_group(task, model, reader, choice, name, mixer))
        else:
            outcomes.append(Outcome())
    return Restored(cut(task.analysis, task.plan.kept, model), tuple(outcomes))


def _restore_group(
    task: RestoreTask, model: Model, reader: FoldedReader, choice: Choice, name: str, mixer: Mixer
) -> Outcome:
    group = choice.group
    layer = reader.single(group)
    if isinstance(layer, str):
        return Outcome(note=layer)
    reason = _not_exchangeable(task.analysis, group, layer)
    if reason is not None:
        return Outcome(note=reason)
    kept, removed, mixing = mixing_of(layer, choice.removed, mixer, task.options)
    notes = []
    restored = False
    for consumer in group.consumers:
        why = no_consumer(consumer, group.units)
        if why is None:
            mix_into(model, consumer, choice.removed, mixing)
            restored = True
        else:
            notes.append(why)
    error = residual_error(layer, kept, removed, mixing) if restored else None
    return Outcome(name if restored else None, "; ".join(notes) or None, error)


def mixing_of(
    layer: ProducerLayer, removed: np.ndarray, mixer: Mixer, options: PruneOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channels kept and removed, int64, in the order of their units, and the S of `mixer` that replaces the latter by
    the former, float64 (removed, kept). `removed`: bool (units,)."""
    channels = layer.axis.features_of(len(removed))[:, 0]
    kept, gone = channels[~removed], channels[removed]
    return kept, gone, mixer(layer, kept, gone, options)


def _not_exchangeable(analysis: Analysis, group: ChannelGroup, layer: ProducerLayer) -> str | None:
    """Why a group's removed units cannot be expressed by kept ones from weights alone; None where they can."""
    if not group.consumers:
        return "no weight consumes these channels"
    consumers = {consumer.node for consumer in group.consumers}
    ports = analysis.labelling.ports
    weights = [port.tensor for port in ports if port.kind == "consumer" and port.node in consumers]
    consumed = GraphIndex(analysis.model).behind(weights)
    labelled = analysis.labelling.axes
    for name in analysis.model.weights:
        if name in layer.constants or name in consumed:
            continue
        for labels in labelled.get(name, []):
            if labels is not None and np.isin(analysis.classes.class_of[labels], group.classes).any():
                return f"constant {name!r} acts on single channels between producer and consumer"
    return None


def no_consumer(consumer: WeightAxis, units: int) -> str | None:
    """Why this consumer cannot take over a group's removed units; None where it can."""
    if consumer.weight is None or not consumer.weight.exclusive:
        return f"the weight of {consumer.name!r} is computed or shared"
    if consumer.groups > 1:
        return f"{consumer.op} {consumer.name!r} is grouped"
    if not consumer.takes_evenly(units):
        return f"{consumer.op} {consumer.name!r} does not take all of these channels alike"
    return None


def mix_into(model: Model, consumer: WeightAxis, removed: np.ndarray, mixing: np.ndarray) -> None:
    """Add to the weight of each kept channel its share of the removed ones: V_k += sum_j S_jk V_j.

    `removed`: bool (units,); `mixing`: S, float64 (removed units, kept units). Where a unit has several channels
    (Flatten: one filter becomes height x width features), its n-th channel leaves its information to the n-th of the
    others. What exceeds the weight's type becomes infinite.
    """
    assert consumer.weight is not None
    value = consumer.weight.read(model)
    matrix = np.moveaxis(value, consumer.axis, 0).astype(np.float64)
    position = consumer.features_of(len(removed))
    lost = matrix[position[removed]]
    matrix[position[~removed]] += np.tensordot(mixing, lost, axes=(0, 0))
    with np.errstate(over="ignore"):
        consumer.weight.write(model, np.moveaxis(matrix, 0, consumer.axis))


def residual_error(layer: ProducerLayer, kept: np.ndarray, removed: np.ndarray, mixing: np.ndarray) -> float:
    """Share of the removed filters' energy that the kept ones do not reproduce: |W_P - S W_K|^2 / |W_P|^2, with the
    bias as one more weight."""
    weights = np.column_stack([layer.folded_filters, layer.folded_bias])
    energy = float((weights[removed] ** 2).sum())
    return float(((weights[removed] - mixing @ weights[kept]) ** 2).sum()) / energy if energy else 0.0


register(Restoration("lbyl", partial(mix_filters, name="lbyl", mixer=lbyl), mixer=lbyl, options=("lambda1", "lambda2")))
register(
    Restoration(
        "neuron-merging", partial(mix_filters, name="neuron-merging", mixer=neuron_merging), mixer=neuron_merging
    )
)
register(Restoration("none", restore_nothing, changes_weights=False))
