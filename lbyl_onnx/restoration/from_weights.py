"""Carry restorations out: change every consumer's weight so that kept channels stand in for removed ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..channels.folding import LayerReader, ProducerLayer
from ..channels.groups import Analysis, ChannelGroup, WeightAxis
from ..model.file import Model
from ..selection.plan import Choice, Plan
from .lbyl import RESTORERS, Strength, residual_error


@dataclass(frozen=True)
class Outcome:
    """What became of one group. `restored`: the method applied to at least one consumer, or None; `note`: why a
    consumer was left as it was; the others are those of `report.GroupReport`."""

    restored: str | None = None
    note: str | None = None
    error: float | None = None
    predicted_error: float | None = None
    condition: float | None = None
    recalibrated: tuple[str, ...] = ()


def compensate(analysis: Analysis, plan: Plan, method: str, strength: Strength) -> tuple[Model, tuple[Outcome, ...]]:
    """The model, channels still complete, with consumers restored by `method`, and every group's outcome.

    All decisions rest on the original weights; consumers of several groups are changed by each in turn.
    """
    model = analysis.model.copy()
    reader = LayerReader(analysis.model)
    outcomes = []
    for choice in plan.choices:
        if method == "none" or not choice.removed.any():
            outcomes.append(Outcome())
        else:
            outcomes.append(_restore_group(analysis, model, reader, choice, method, strength))
    return model, tuple(outcomes)


def _restore_group(
    analysis: Analysis, model: Model, reader: LayerReader, choice: Choice, method: str, strength: Strength
) -> Outcome:
    group = choice.group
    layer = reader.single(group)
    if isinstance(layer, str):
        return Outcome(note=layer)
    reason = _not_exchangeable(analysis, group, layer)
    if reason is not None:
        return Outcome(note=reason)
    kept, removed, mixing = mixing_of(layer, choice.removed, method, strength)
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
    return Outcome(method if restored else None, "; ".join(notes) or None, error)


def mixing_of(
    layer: ProducerLayer, removed: np.ndarray, method: str, strength: Strength
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channels kept and removed, int64, in the order of their units, and the S of `method` that replaces the latter by
    the former, float64 (removed, kept). `removed`: bool (units,)."""
    channels = layer.axis.channels_of(len(removed))[:, 0]
    kept, gone = channels[~removed], channels[removed]
    return kept, gone, RESTORERS[method](layer, kept, gone, strength)


def _not_exchangeable(analysis: Analysis, group: ChannelGroup, layer: ProducerLayer) -> str | None:
    """Why a group's removed units cannot be expressed by kept ones from weights alone; None where they can."""
    if not group.consumers:
        return "no weight consumes these channels"
    consumers = {consumer.node for consumer in group.consumers}
    ports = analysis.labelling.ports
    consumed = _behind(analysis.model, [p.tensor for p in ports if p.kind == "consumer" and p.node in consumers])
    labelled = analysis.labelling.axes
    for name in analysis.model.weights:
        if name in layer.constants or name in consumed:
            continue
        for labels in labelled.get(name, []):
            if labels is not None and np.isin(analysis.classes.class_of[labels], group.classes).any():
                return f"constant {name!r} acts on single channels between producer and consumer"
    return None


def _behind(model: Model, names: list[str]) -> set[str]:
    """`names`, and the names of all tensors that they are computed from."""
    makers = {name: node for node in model.proto.graph.node for name in node.output}
    found: set[str] = set()
    while names:
        found.update(names)
        names = [source for name in names if name in makers for source in makers[name].input if source not in found]
    return found


def no_consumer(consumer: WeightAxis, units: int) -> str | None:
    """Why this consumer cannot take over a group's removed units; None where it can."""
    if consumer.weight is None:
        return f"the weight of {consumer.name!r} is computed or shared"
    if consumer.groups > 1:
        return f"{consumer.op} {consumer.name!r} is grouped"
    taken = np.bincount(consumer.units[consumer.units >= 0], minlength=units)
    if (taken != taken[0]).any():
        return f"{consumer.op} {consumer.name!r} does not take all of these channels alike"
    return None


def mix_into(model: Model, consumer: WeightAxis, removed: np.ndarray, mixing: np.ndarray) -> None:
    """Add to the weight of each kept channel its share of the removed ones: V_k += sum_j S_jk V_j.

    `removed`: bool (units,); `mixing`: S, float64 (removed units, kept units). Where a unit has several channels
    (Flatten: one filter becomes height x width features), its n-th channel leaves its information to the n-th of the
    others. What exceeds the weight's type becomes infinite.
    """
    assert consumer.weight is not None
    value = model.weights[consumer.weight]
    matrix = np.moveaxis(value, consumer.axis, 0).astype(np.float64)
    position = consumer.channels_of(len(removed))
    lost = matrix[position[removed]]
    matrix[position[~removed]] += np.tensordot(mixing, lost, axes=(0, 0))
    with np.errstate(over="ignore"):
        mixed = np.moveaxis(matrix, 0, consumer.axis).astype(value.dtype)
    model.replace(consumer.weight, np.ascontiguousarray(mixed))
