"""Sizes that the graph computes for itself: which entries of an integer tensor count channels that may go.

A model may take the number of channels from `Shape`, calculate with it and feed the result to Reshape, Slice or
an attention's scale.  When channels go, such a number would change at run time, rightly or wrongly.  So every
tensor that depends on sizes alone carries, per entry, its origin: the channel axes it was computed from.

1. Shape gives an entry the labels of its axis, exactly: it is their count.
2. Operators that only move entries (Gather, Concat, Slice, ...) move the origins with them.
3. Any other operator on such entries mixes the origins, and they are exact no longer.
4. Where such an entry meets an activation, it is pinned to its original value, and the rule of that operator may
   instead let it count the labels of an axis; if it also varies with the input's sizes, its channels are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from .equivalence import Axis
from .rule_context import RuleContext, Tracer

_MOVES = frozenset(
    "Cast Concat Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split()
)


@dataclass(frozen=True)
class Origin:
    """Where an entry comes from: label arrays of axes, and whether the entry is exactly the count of the one."""

    counted: tuple[np.ndarray, ...]
    exact: bool


class Sizes:
    """Origins of every size tensor seen so far. Code 0 stands for an entry that no channel touches."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._origins: list[Origin] = [Origin((), False)]
        self._codes: dict[str, np.ndarray] = {}

    def is_size_node(self, node: gs.Node) -> bool:
        """Whether the node calculates with sizes and constants alone and no weight rule is needed for it."""
        outputs = [self._tracer.probe.tensors.get(tensor.name) for tensor in node.outputs if tensor.name]
        if node.op in ("Shape", "Size"):
            return True
        if not outputs or any(facts is None or facts.value is None for facts in outputs):
            return False
        integral = all(facts is not None and facts.value.dtype.kind in "biu" for facts in outputs)  # type: ignore[union-attr]
        steering = {tensor.name for tensor in _steering(node)}
        if integral:
            return True
        labelled = any(labels is not None for t in node.inputs for labels in self._tracer.result.axes.get(t.name, []))
        return not labelled and any(not self._is_free(t) for t in node.inputs if t.name not in steering)

    def trace(self, ctx: RuleContext) -> None:
        """Follow the origins through one size node."""
        node = ctx.node
        ctx.release()
        if node.op == "Shape":
            axes = ctx.axes(0)[ctx.attr("start", 0) : ctx.attr("end")]
            codes = [0 if labels is None else self._code((labels,), True) for labels in axes]
            self._codes[node.outputs[0].name] = np.array(codes, np.int64)
        elif node.op == "Size":
            labels = tuple(axis for axis in ctx.axes(0) if axis is not None)
            self._codes[node.outputs[0].name] = np.array(self._code(labels, False) if labels else 0)
        elif not all(self._is_free(tensor) for tensor in node.inputs):
            self._follow(ctx)

    def guard(self, ctx: RuleContext) -> None:
        """Pin every size with an origin that this node, which works on activations, reads.

        ConstantOfShape is left alone: its output takes the labels that it counts, or they are frozen (`exact_axes`).
        """
        for slot in ctx.slots if ctx.op != "ConstantOfShape" else []:
            codes = self._codes.get(ctx.node.inputs[slot].name)
            if codes is None or not codes.any():
                continue
            facts = ctx.facts(slot)
            for entry in np.flatnonzero(codes.reshape(-1)).tolist():
                for labels in self._origins[int(codes.reshape(-1)[entry])].counted:
                    if facts.varies is None or facts.varies.reshape(-1)[entry]:
                        ctx.freeze(labels, "reads a size computed from them and from the input's size")
                    else:
                        ctx.pin(slot, entry, labels)

    def freeze_captured(self, name: str, reason: str) -> None:
        """Keep all channels that tensor `name`, used where they can't be followed, was computed from."""
        for code in np.unique(self._codes.get(name, 0)).tolist():
            for labels in self._origins[code].counted:
                self._tracer.result.labels.freeze(labels, reason)

    def exact_axes(self, name: str, rank: int) -> list[Axis]:
        """For a shape vector: per entry, the labels that it exactly counts. Inexact origins are frozen."""
        axes: list[Axis] = [None] * rank
        for entry, code in enumerate(np.broadcast_to(self._codes.get(name, 0), (rank,)).tolist()):
            origin = self._origins[code]
            if origin.exact:
                axes[entry] = origin.counted[0]
            for labels in () if origin.exact else origin.counted:
                self._tracer.result.labels.freeze(labels, f"size {name!r} is computed from them")
        return axes

    def _is_free(self, tensor: gs.Tensor) -> bool:
        return tensor.name not in self._codes or not self._codes[tensor.name].any()

    def _code(self, counted: tuple[np.ndarray, ...], exact: bool) -> int:
        self._origins.append(Origin(counted, exact))
        return len(self._origins) - 1

    def _codes_of(self, name: str) -> np.ndarray:
        facts = self._tracer.probe.tensors[name]
        return self._codes.get(name, np.zeros(facts.shape, np.int64))

    def _follow(self, ctx: RuleContext) -> None:
        node = ctx.node
        if node.op in _MOVES and all(self._is_free(tensor) for tensor in _steering(node)):
            moved = self._move(ctx)
            for tensor, codes in zip(node.outputs, moved, strict=True):
                self._codes[tensor.name] = codes
            return
        mixed = {code for tensor in node.inputs for code in np.unique(self._codes.get(tensor.name, 0)).tolist()}
        counted = tuple(labels for code in mixed for labels in self._origins[code].counted)
        code = self._code(counted, False)
        for slot, tensor in enumerate(node.outputs):
            if tensor.name:
                self._codes[tensor.name] = np.full(ctx.out_facts(slot).shape, code)

    def _move(self, ctx: RuleContext) -> list[np.ndarray]:
        """Run the node itself on the codes of what it moves."""
        node = ctx.node
        proto = self._tracer.model.proto.graph.node[ctx.index]
        if node.op == "Cast":
            return [self._codes_of(node.inputs[0].name)]
        moved = ctx.slots if node.op == "Concat" else [0]
        feeds = {
            node.inputs[slot].name: self._codes_of(node.inputs[slot].name) if slot in moved else ctx.facts(slot).value
            for slot in ctx.slots
        }
        infos = [onnx.ValueInfoProto(name=name) for name in feeds]
        outputs = [onnx.ValueInfoProto(name=tensor.name) for tensor in node.outputs]
        graph = onnx.helper.make_graph([proto], "move", infos, outputs)
        model = onnx.helper.make_model(graph, opset_imports=self._tracer.model.proto.opset_import)
        return [np.asarray(codes) for codes in ReferenceEvaluator(model).run(None, feeds)]


def _steering(node: gs.Node) -> list[gs.Tensor]:
    """Inputs of an operator that moves entries which say where from or where to; none for other operators."""
    return list(node.inputs[1:]) if node.op in _MOVES - {"Concat"} else []
