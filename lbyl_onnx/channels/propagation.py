"""Walk the graph in order and let every node's rule write its equalities down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from ..model.model import Model
from .equivalence import LabelClasses
from .probe import Probe
from .rule_context import Labelling, RuleContext, RuleDoesNotApply, Tracer
from .rules import RULES
from .sizes import Sizes

MAX_ATTEMPTS = 6


@dataclass(frozen=True)
class _Attempt:
    """One pass over the graph. `choices`: which option each ambiguous node took; `cost`: frozen produced channels."""

    choices: dict[int, int]
    labelling: Labelling
    classes: LabelClasses
    frozen: np.ndarray

    @property
    def cost(self) -> int:
        ports = self.labelling.ports
        return sum(int(self.frozen[self.classes.class_of[port.labels]].sum()) for port in ports)

    def others(self, alike: bool) -> dict[int, int]:
        """Choices with the next option for every node whose channels are frozen, and with `alike` for nodes of the
        same shape too; no choices where no node has another option."""
        ambiguous = self.labelling.ambiguous
        stuck = {node for node, (labels, _) in ambiguous.items() if self.frozen[self.classes.class_of[labels]].any()}
        shapes = {ambiguous[node][0].shape for node in stuck} if alike else set()
        chosen = {
            node: self.choices.get(node, 0) + 1
            for node, (labels, options) in ambiguous.items()
            if (node in stuck or labels.shape in shapes) and self.choices.get(node, 0) + 1 < options
        }
        return {**self.choices, **chosen} if chosen else {}


def label_channels(model: Model, probe: Probe) -> tuple[Labelling, LabelClasses]:
    """Labels of every axis in the model's main graph, and the classes of those that are equal.

    Where a reshape could carry its channels on either of several axes and the first choice leaves them frozen, the
    next is tried: first for such reshapes alone, then for all of the same shape (the values of an attention have to
    follow its queries and keys). The pass that freezes the fewest produced channels is returned.
    """
    with G_LOGGER.suppress():
        graph = gs.import_onnx(model.proto)
    best = _attempt(model, graph, probe, {})
    alike = False
    for _ in range(MAX_ATTEMPTS):
        choices = best.others(alike)
        found = _attempt(model, graph, probe, choices) if choices else best
        if found.cost < best.cost:
            best, alike = found, False
        elif alike:
            break
        else:
            alike = True
    return best.labelling, best.classes


def _attempt(model: Model, graph: gs.Graph, probe: Probe, choices: dict[int, int]) -> _Attempt:
    labelling = _trace(model, graph, probe, choices)
    classes = labelling.labels.resolve()
    frozen = np.zeros(classes.count, bool)
    frozen[list(classes.reasons)] = True
    return _Attempt(choices, labelling, classes, frozen)


def _trace(model: Model, graph: gs.Graph, probe: Probe, choices: dict[int, int]) -> Labelling:
    tracer = Tracer(model, graph, probe, choices)
    sizes = Sizes(tracer)
    for index, node in enumerate(graph.nodes):
        ctx = RuleContext(tracer, index, node)
        if sizes.is_size_node(node) and node.op != "ConstantOfShape":
            sizes.trace(ctx)
        else:
            sizes.guard(ctx)
            _apply(ctx, sizes)
        if node.op not in ("Shape", "Size") and all(t.name in tracer.derived or not t.name for t in node.inputs):
            tracer.derived.update(tensor.name for tensor in node.outputs)
        for name in _captured(node):
            _keep(tracer, sizes, name, f"{ctx.title} reads them in a subgraph")
    for tensor in graph.outputs:
        _keep(tracer, sizes, tensor.name, f"output {tensor.name!r} of the model")
    return tracer.finish()


def _apply(ctx: RuleContext, sizes: Sizes) -> None:
    node = ctx.node
    if node.op == "Constant":
        return
    if node.op == "ConstantOfShape":
        ctx.set(ctx.fill(0, sizes.exact_axes(node.inputs[0].name, len(ctx.out_facts().shape))))
        return
    rule = RULES.get((ctx.domain, ctx.op))
    try:
        if rule is None:
            raise RuleDoesNotApply(f"operator {ctx.title} has no rule")
        rule(ctx)
    except RuleDoesNotApply as reason:
        for slot in ctx.slots:
            for labels in ctx.axes(slot):
                ctx.labels.freeze(labels, str(reason))
        ctx.release()


def _keep(tracer: Tracer, sizes: Sizes, name: str, reason: str) -> None:
    if name in tracer.probe.tensors:
        for labels in tracer.settled(name):
            tracer.result.labels.freeze(labels, reason)
    sizes.freeze_captured(name, reason)


def _captured(node: gs.Node) -> set[str]:
    """Names that the node's subgraphs use, at any depth; those of the outer graph are captured."""
    names: set[str] = set()
    for value in node.attrs.values():
        for graph in value if isinstance(value, list) else [value]:
            if isinstance(graph, gs.Graph):
                for inner in graph.nodes:
                    names.update(tensor.name for tensor in inner.inputs)
                    names |= _captured(inner)
                names.update(tensor.name for tensor in graph.outputs)
    return names
