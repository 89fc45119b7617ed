"""Channel groups: units that can be removed, the weights that produce them and the weights that consume them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..model.graph import Constant, GraphIndex
from ..model.model import Model
from ..model.tensors import is_floating
from .equivalence import LabelClasses
from .macs import node_macs
from .probe import Probe
from .propagation import label_channels
from .rule_context import Labelling, Port

QUANTISED = "quantised integers; compress the float model first, quantise afterwards"


@dataclass(frozen=True)
class WeightAxis:
    """One axis of one weight as a group's producer or consumer.

    `weight`: the constant behind the node's input, None where it is computed or no floating-point number; `units`:
    int64 of shape (axis length,), the group's unit of each channel, -1 for channels of other groups; `groups`: number
    of convolution groups that the axis is repeated over.
    """

    node: int
    slot: int
    name: str
    op: str
    weight: Constant | None
    axis: int
    units: np.ndarray
    groups: int

    def takes_evenly(self, units: int) -> bool:
        """Whether every one of the group's `units` has as many channels on this axis."""
        taken = np.bincount(self.units[self.units >= 0], minlength=units)
        return bool((taken == taken[0]).all())

    def features_of(self, units: int) -> np.ndarray:
        """Channels of each of the group's `units` in ascending order, int64 (units, channels per unit); every unit must
        have as many."""
        own = np.flatnonzero(self.units >= 0)
        return own[np.argsort(self.units[own], kind="stable")].reshape(units, -1)


@dataclass(frozen=True)
class ChannelGroup:
    """Units that share their producers.

    `classes`: int64 (units,), the label class of each; `free`: bool (units,), False for units that must stay;
    `coupled`: several producers, or a residual sum or Concat on the way. `frozen_reason`: why no unit can be cut;
    `unreadable`: why units that could be cut can be neither scored nor restored; None where they can.
    """

    classes: np.ndarray
    free: np.ndarray
    producers: tuple[WeightAxis, ...]
    consumers: tuple[WeightAxis, ...]
    coupled: bool
    frozen_reason: str | None
    unreadable: str | None
    parameters: int
    macs: int

    @property
    def name(self) -> str:
        """The first producer's node name."""
        return self.producers[0].name

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.classes)


@dataclass(frozen=True)
class Analysis:
    """Everything known of a model before anything is chosen."""

    model: Model
    probe: Probe
    labelling: Labelling
    classes: LabelClasses
    groups: tuple[ChannelGroup, ...]

    def kept_shape(self, name: str, kept: np.ndarray) -> tuple[int, ...]:
        """Shape of tensor `name` once only the classes in `kept` (bool, (classes,)) are left."""
        axes = self.labelling.axes.get(name)
        shape = self.probe.tensors[name].shape
        if axes is None:
            return shape
        sizes = zip(axes, shape, strict=True)
        return tuple(
            size if labels is None else int(kept[self.classes.class_of[labels]].sum()) for labels, size in sizes
        )

    @property
    def answers(self) -> float:
        """How many elements all outputs have together for each element of input."""
        names = [value.name for value in self.model.proto.graph.output]
        shapes = [self.probe.tensors[name].shape for name in names if name in self.probe.tensors]
        return sum(math.prod(shape) for shape in shapes) / self.probe.elements

    def rows(self, name: str, axis: int, elements: int) -> float:
        """About how many rows tensor `name`, channels on `axis`, has when all inputs hold `elements` together."""
        shape, probed = self.probe.tensors[name].shape, self.probe.elements
        return math.prod(shape) / max(shape[axis], 1) * elements / probed


def analyse(model: Model, probe: Probe) -> Analysis:
    """Label the channels of `model` and gather them into groups."""
    labelling, classes = label_channels(model, probe)
    groups = _Grouping(model, probe, labelling, classes).groups()
    return Analysis(model, probe, labelling, classes, groups)


class _Grouping:
    def __init__(self, model: Model, probe: Probe, labelling: Labelling, classes: LabelClasses) -> None:
        self._model = model
        self._probe = probe
        self._labelling = labelling
        self._classes = classes
        self._index = GraphIndex(model)
        self._shapes = {name: facts.shape for name, facts in probe.tensors.items()}

    def groups(self) -> tuple[ChannelGroup, ...]:
        """Groups in the order of their first producer: classes on one producer's axis belong together."""
        producers = [port for port in self._labelling.ports if port.kind == "producer"]
        consumers = [port for port in self._labelling.ports if port.kind == "consumer"]
        on_axis = [self._classes.class_of[port.labels] for port in producers]
        left = np.concatenate([np.empty(0, np.int64), *(classes[:-1] for classes in on_axis)]).astype(np.int32)
        right = np.concatenate([np.empty(0, np.int64), *(classes[1:] for classes in on_axis)]).astype(np.int32)
        shape = (self._classes.count, self._classes.count)
        edges = coo_array((np.ones(len(left), bool), (left, right)), shape=shape)
        group_of = connected_components(edges, directed=False)[1] if self._classes.count else left
        members: dict[int, list[Port]] = {}
        for port, classes in zip(producers, on_axis, strict=True):
            members.setdefault(int(group_of[classes[0]]), []).append(port)
        parameters = self._parameters(group_of)
        takers: dict[int, list[Port]] = {}
        for port in consumers:
            for group in np.unique(group_of[self._classes.class_of[port.labels]]).tolist():
                takers.setdefault(group, []).append(port)
        return tuple(self._group(ports, takers.get(key, []), parameters.get(key, 0)) for key, ports in members.items())

    def _group(self, producers: list[Port], consumers: list[Port], parameters: int) -> ChannelGroup:
        class_of = self._classes.class_of
        classes = np.concatenate([class_of[port.labels] for port in producers])
        classes = classes[np.sort(np.unique(classes, return_index=True)[1])]
        reasons = [self._classes.reasons.get(index) for index in classes.tolist()]
        free = np.array([reason is None for reason in reasons])
        frozen = None if free.any() else reasons[0]
        if frozen is None and len(classes) == 1:
            frozen = "has a single unit"
        unreadable = next((why for port in (*producers, *consumers) if (why := self._unreadable(port))), None)
        unit_of = np.full(self._classes.count, -1)
        unit_of[classes] = np.arange(len(classes))
        nodes = {port.node for port in [*producers, *consumers]}
        return ChannelGroup(
            classes,
            free,
            tuple(self._weight_axis(port, unit_of) for port in producers),
            tuple(self._weight_axis(port, unit_of) for port in consumers),
            bool(self._classes.coupled[classes].any()) or len(producers) > 1,
            frozen,
            unreadable,
            parameters,
            sum(self._macs(node) for node in nodes) // self._probe.batch,
        )

    def _weight_axis(self, port: Port, unit_of: np.ndarray) -> WeightAxis:
        node = self._index.nodes[port.node]
        units = unit_of[self._classes.class_of[port.labels]]
        weight = None if self._unreadable(port) else self._index.constant(port.tensor)
        return WeightAxis(
            port.node, port.slot, node.name or node.output[0], node.op_type, weight, port.axis, units, port.groups
        )

    def _unreadable(self, port: Port) -> str | None:
        """Why a weight cannot be scored or restored; None where it is a constant of a floating-point type."""
        node = self._index.nodes[port.node]
        title = f"{node.op_type} {node.name or node.output[0]!r}"
        found = self._index.constant(port.tensor)
        if found is None:
            maker = self._index.maker(port.tensor)
            by = "" if maker is None else f" by {maker.op_type}"
            quantised = maker is not None and maker.op_type == "DequantizeLinear"
            return f"the weights of {title} are {QUANTISED if quantised else f'computed{by}, not stored'}"
        stored = self._model.weights[found.name]
        return None if is_floating(stored) else f"the weights of {title} are {QUANTISED}"

    def _parameters(self, group_of: np.ndarray) -> dict[int, int]:
        """Per group, the elements of parameters that carry its channels on some axis."""
        totals: dict[int, int] = {}
        for name in self._index.parameters():
            array = self._model.weights[name]
            axes = [labels for labels in self._labelling.axes.get(name, []) if labels is not None]
            touched = {int(key) for labels in axes for key in np.unique(group_of[self._classes.class_of[labels]])}
            for key in touched:
                totals[key] = totals.get(key, 0) + array.size
        return totals

    def _macs(self, index: int) -> int:
        return node_macs(self._index.nodes[index], self._shapes)
