"""Label every axis of every tensor: one pass over the nodes, each node's rule saying which labels are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..model.model import Model
from .equivalence import Axis, Labels
from .probe import Probe, TensorFacts
from .rewrites import Edit, Renumber, SetSizes


@dataclass(frozen=True)
class Port:
    """A weight axis that makes or takes channels. `kind`: "producer" or "consumer"; `tensor`: the weight as the node
    reads it; `labels`: int64 of shape (axis length,); `transparent`: the node takes channels through one by one
    (depthwise, whole groups), so it makes none of its own."""

    kind: str
    node: int
    slot: int
    tensor: str
    axis: int
    labels: np.ndarray
    groups: int = 1


@dataclass
class Labelling:
    """Labels of a whole graph.

    `axes`: tensor name → one entry an axis; a constant's axes appear once a rule has touched them. `ports`: the
    weights that produce and consume. `edits`: sizes and indices to rewrite. `ambiguous`: nodes that could carry
    their channels on either of several axes, with the labels in question and how many choices there are.
    """

    labels: Labels
    axes: dict[str, list[Axis]] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    ambiguous: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)


class Untouched:
    """Stands for the axis of a constant that no rule has given labels yet."""


UNTOUCHED = Untouched()


class RuleContext:
    """One node as its rule sees it: axes, shapes and values of its inputs, and the means to say what is equal."""

    def __init__(self, tracer: Tracer, index: int, node: gs.Node) -> None:
        self._tracer = tracer
        self.index = index
        self.node = node
        self.op: str = node.op
        self.domain = _short(node.domain)
        self.opset: int = tracer.opsets.get(self.domain, 1)
        self.labels = tracer.result.labels
        self.choice = tracer.choices.get(index, 0)

    @property
    def title(self) -> str:
        """Operator and node name, as reasons quote it."""
        return f"{self.op} {self.node.name or self.node.outputs[0].name!r}"

    def has(self, slot: int) -> bool:
        """Whether input `slot` is given."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot].name)

    @property
    def slots(self) -> list[int]:
        """The input slots that are given."""
        return [slot for slot in range(len(self.node.inputs)) if self.has(slot)]

    def facts(self, slot: int) -> TensorFacts:
        """Facts of input `slot`. Raises RuleDoesNotApply where it has no shape (a sequence)."""
        return self._facts(self.node.inputs[slot].name)

    def out_facts(self, slot: int = 0) -> TensorFacts:
        """Facts of output `slot`. Raises RuleDoesNotApply where it has no shape (a sequence)."""
        return self._facts(self.node.outputs[slot].name)

    def _facts(self, name: str) -> TensorFacts:
        if name not in self._tracer.probe.tensors:
            raise RuleDoesNotApply(f"{self.title} works on {name!r}, which has no shape")
        return self._tracer.probe.tensors[name]

    def shape(self, slot: int) -> tuple[int, ...]:
        """Probed shape of input `slot`."""
        return self.facts(slot).shape

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.node.attrs.get(name, default)

    def ints(self, slot: int, name: str) -> np.ndarray | None:
        """A vector of sizes given as input `slot` (newer opsets) or attribute `name` (older ones); None if absent."""
        if self.has(slot):
            value = self.facts(slot).value
            if value is None:
                raise RuleDoesNotApply(f"{self.title} computes its {name} from data")
            return value.reshape(-1)
        value = self.attr(name)
        return None if value is None else np.atleast_1d(np.asarray(value, np.int64))

    def is_weight(self, slot: int) -> bool:
        """Whether input `slot` depends on constants alone."""
        return self.node.inputs[slot].name in self._tracer.derived

    def axes(self, slot: int) -> list[Axis]:
        """Labels of input `slot`, one entry an axis; an untouched constant gets fresh ones."""
        return self._tracer.settled(self.node.inputs[slot].name)

    def join(self, members: Sequence[tuple[int, int]], couple: bool = True) -> Axis:
        """Make the axes (slot, axis) one: equate their labels, label untouched constants, freeze where one is fixed.

        `couple` notes that a join of two different branches ties their producers together.
        """
        return self._tracer.join(self, members, couple)

    def tie(self, slot: int, axis: int, labels: Axis) -> None:
        """Axis `axis` of input `slot` carries exactly `labels`; both stay where one of them cannot shrink."""
        own = self.axes(slot)[axis]
        if labels is None or own is None:
            for stranded in (own, labels):
                self.freeze(stranded, "ties them to channels that stay")
        else:
            self.labels.equate(own, labels)

    def set(self, axes: Sequence[Axis], slot: int = 0) -> None:
        """The labels of output `slot`."""
        if slot < len(self.node.outputs) and self.node.outputs[slot].name:
            self._tracer.result.axes[self.node.outputs[slot].name] = list(axes)

    def freeze(self, labels: Axis, why: str) -> None:
        """Keep these channels, because of what this node does with them."""
        self.labels.freeze(labels, f"{self.title} {why}")

    def release(self) -> None:
        """Give every output axes without channels."""
        for slot, tensor in enumerate(self.node.outputs):
            if tensor.name in self._tracer.probe.tensors:
                self.set([None] * len(self.out_facts(slot).shape), slot)

    def port(self, kind: str, slot: int, axis: int, labels: Axis, groups: int = 1) -> None:
        """Note that weight `slot` makes ("producer") or takes ("consumer") the channels of `labels` on its `axis`."""
        if labels is not None:
            name = self.node.inputs[slot].name
            self._tracer.result.ports.append(Port(kind, self.index, slot, name, axis, labels, groups))

    def produce(self, slot: int, axis: int, groups: int = 1) -> Axis:
        """Labels that weight `slot` makes on its `axis`; with `groups`, every group loses the same channels."""
        labels = self.axes(slot)[axis]
        if labels is not None and groups > 1:
            self.labels.equate(labels.reshape(groups, -1), labels.reshape(groups, -1)[:1])
        self.port("producer", slot, axis, labels)
        return labels

    def count(self, slot: int | str, entry: int, labels: Axis, value: np.ndarray | None = None) -> None:
        """Entry `entry` of the sizes in `slot` (input number or attribute name) is the number of `labels` kept."""
        if labels is not None:
            self._tracer.sizes_edit(self, slot, value).counts[entry] = labels

    def fill(self, slot: int, axes: Sequence[Axis]) -> list[Axis]:
        """`axes` of a tensor that is filled to the sizes in input `slot`: one without labels gets channels of its own
        where its size is a constant, which then counts them."""
        facts = self.facts(slot)
        filled = list(axes)
        for entry, size in enumerate([] if facts.value is None else facts.value.reshape(-1).tolist()):
            if filled[entry] is None and size > 1 and facts.varies is not None and not facts.varies.reshape(-1)[entry]:
                filled[entry] = self.labels.fresh(size)
                self.count(slot, entry, filled[entry])
        return filled

    def pin(self, slot: int, entry: int, labels: np.ndarray) -> None:
        """Entry `entry` of input `slot` was computed from the number of `labels`; it keeps its original value."""
        pinned = self._tracer.sizes_edit(self, slot, None).pinned
        pinned[entry] = np.concatenate([pinned.get(entry, labels[:0]), labels])

    def replaces(self, slot: int | str, attribute: str) -> None:
        """The sizes in `slot`, if they are rewritten, stand in for `attribute`."""
        self._tracer.sizes_edit(self, slot, None).replaces = attribute

    def renumber(self, slot: int, indices: np.ndarray, labels: np.ndarray) -> None:
        """Input `slot` holds indices into an axis with `labels`."""
        self._tracer.result.edits.append(Renumber(self.index, slot, indices, labels))

    def choose(self, options: list[int], labels: np.ndarray) -> int:
        """One of `options` (best first); the next one is tried where this one leaves the channels frozen."""
        self._tracer.result.ambiguous[self.index] = labels, len(options)
        return options[min(self.choice, len(options) - 1)]


def _short(domain: str | None) -> str:
    """An operator domain with "" for ai.onnx."""
    return "" if domain in (None, "ai.onnx") else domain


class RuleDoesNotApply(Exception):
    """A rule met a form of its operator that it does not cover; the node's channels are frozen."""


class Tracer:
    """The state of one labelling pass. `choices`: for ambiguous reshapes, which option to take."""

    def __init__(self, model: Model, graph: gs.Graph, probe: Probe, choices: dict[int, int]) -> None:
        self.model = model
        self.graph = graph
        self.probe = probe
        self.choices = choices
        self.opsets = {_short(entry.domain): entry.version for entry in model.proto.opset_import}
        self.result = Labelling(Labels())
        self._pending: dict[str, list[Axis | Untouched]] = {
            name: [UNTOUCHED] * array.ndim for name, array in model.weights.items()
        }
        self._sizes: dict[tuple[int, int | str], SetSizes] = {}
        self.derived = set(model.weights)

    def finish(self) -> Labelling:
        """The labelling, once every node has been seen."""
        for name, axes in self._pending.items():
            self.result.axes[name] = [None if isinstance(axis, Untouched) else axis for axis in axes]
        return self.result

    def settled(self, name: str) -> list[Axis]:
        """Labels of a tensor, with fresh ones for what is untouched."""
        if name in self._pending:
            shape = self.model.weights[name].shape
            for position, axis in enumerate(self._pending[name]):
                if isinstance(axis, Untouched):
                    self._touch(name, position, self.result.labels.fresh(shape[position]))
        facts = self.probe.tensors.get(name)
        return self.result.axes.get(name) or [None] * (len(facts.shape) if facts else 0)

    def _touch(self, name: str, position: int, labels: Axis) -> None:
        self._pending[name][position] = labels
        if not any(isinstance(axis, Untouched) for axis in self._pending[name]):
            self.result.axes[name] = [a for a in self._pending.pop(name) if not isinstance(a, Untouched)]

    def _axis(self, name: str, position: int) -> Axis | Untouched:
        return self._pending[name][position] if name in self._pending else self.settled(name)[position]

    def join(self, ctx: RuleContext, members: Sequence[tuple[int, int]], couple: bool) -> Axis:
        """See `RuleContext.join`."""
        named = [(ctx.node.inputs[slot].name, axis) for slot, axis in members]
        found = [(name, axis, self._axis(name, axis)) for name, axis in named]
        labelled = [labels for _, _, labels in found if isinstance(labels, np.ndarray)]
        joined: Axis
        fixed = next((name for name, _, labels in found if labels is None), None)
        if fixed is not None:
            for other in labelled:
                ctx.freeze(other, f"joins them with an axis of {fixed!r} that cannot shrink")
            joined = None
        elif labelled:
            joined = labelled[0]
            branches = sum(name not in self.derived for name, _ in named)
            for other in labelled[1:]:
                if couple and branches > 1 and not np.array_equal(joined, other):
                    self.result.labels.couple(joined)
                self.result.labels.equate(joined, other)
        else:
            name, axis, _ = found[0]
            joined = self.result.labels.fresh(self.probe.tensors[name].shape[axis])
        for name, axis, labels in found:
            if isinstance(labels, Untouched) and isinstance(self._axis(name, axis), Untouched):
                self._touch(name, axis, joined)
        return joined

    def sizes_edit(self, ctx: RuleContext, slot: int | str, value: np.ndarray | None) -> SetSizes:
        """The edit of one vector of sizes, made on first use."""
        key = (ctx.index, slot)
        if key not in self._sizes:
            static = None
            if isinstance(slot, int) and ctx.has(slot):
                facts = ctx.facts(slot)
                value = facts.value
                static = None if facts.varies is None else ~facts.varies
            edit = SetSizes(ctx.index, slot, value, static)
            self._sizes[key] = edit
            self.result.edits.append(edit)
        return self._sizes[key]
