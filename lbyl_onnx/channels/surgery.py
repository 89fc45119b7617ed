"""Cut removed channels out of a model: every constant by its labels, then the sizes and indices that describe them.

1. Constants: along every labelled axis, the channels that are not kept are deleted.
2. Sizes and indices (edits): attributes are rewritten, inputs replaced by new constants; a vector that also varies
   with the input's sizes is corrected by a Where (before opset 9: Mul and Add) in front of its node.
3. Value infos of the cut tensors get their new sizes.
4. Nodes and initializers that nothing reads any longer since 2 are dropped.
Names of nodes, inputs and outputs, types, dynamic axes, opset and metadata stay as they are.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.nodes import opset
from .groups import Analysis
from .rewrites import Renumber, SetSizes


def cut(analysis: Analysis, kept: np.ndarray, model: Model | None = None) -> Model:
    """A new model without the channels whose class is not in `kept` (bool, (classes,)).

    `model` is the analysed model with changed values (restored weights), by default the analysed one itself.
    """
    surgery = _Surgery(analysis, kept, (model or analysis.model).copy())
    surgery.cut_constants()
    surgery.apply_edits()
    surgery.update_value_infos()
    return surgery.model


class _Surgery:
    def __init__(self, analysis: Analysis, kept: np.ndarray, model: Model) -> None:
        self._analysis = analysis
        self._kept = kept
        self._class_of = analysis.classes.class_of
        self.model = model
        self._graph = model.proto.graph
        self._nodes = list(self._graph.node)
        self._inserted: dict[int, list[onnx.NodeProto]] = {}
        self._opset = opset(model.proto)

    def cut_constants(self) -> None:
        for name, array in list(self.model.weights.items()):
            smaller = array
            for axis, labels in enumerate(self._analysis.labelling.axes.get(name, [])):
                if labels is not None and not (mask := self._mask(labels)).all():
                    smaller = np.compress(mask, smaller, axis=axis)
            if smaller is not array:
                self.model.replace(name, np.ascontiguousarray(smaller))

    def apply_edits(self) -> None:
        unused_before = self._unread()
        for edit in self._analysis.labelling.edits:
            if isinstance(edit, Renumber):
                self._renumber(edit)
            elif self._is_active(edit):
                self._set_sizes(edit)
        if self._inserted:
            ordered = [new for index, node in enumerate(self._nodes) for new in [*self._inserted.get(index, []), node]]
            del self._graph.node[:]
            self._graph.node.extend(ordered)
        self._drop_unread(unused_before)

    def update_value_infos(self) -> None:
        axes_of = self._analysis.labelling.axes
        for info in self._graph.value_info:
            for labels, dim in zip(axes_of.get(info.name, []), info.type.tensor_type.shape.dim, strict=False):
                if labels is not None and dim.HasField("dim_value"):
                    dim.dim_value = int(self._mask(labels).sum())

    def _mask(self, labels: np.ndarray) -> np.ndarray:
        return self._kept[self._class_of[labels]]

    def _is_active(self, edit: SetSizes) -> bool:
        """Whether a channel that the sizes describe goes; a bound counted from the end (Slice) moves with any."""
        value = np.ravel(np.asarray(edit.value))
        from_end = any(value[entry] < 0 for entry in edit.counts)
        labels = [*edit.counts.values(), *edit.pinned.values()]
        return from_end or any(not self._mask(array).all() for array in labels)

    def _set_sizes(self, edit: SetSizes) -> None:
        node = self._nodes[edit.node]
        value = np.array(edit.value)
        flat = value.reshape(-1)
        for entry, labels in edit.counts.items():
            flat[entry] = self._mask(labels).sum()
        if isinstance(edit.slot, str):
            self._set_attribute(node, edit.slot, flat)
        elif edit.static is None or edit.static.all():
            self._set_input(node, edit.slot, value)
        else:
            self._correct(edit, node, value)
        if edit.replaces:
            kept = [attribute for attribute in node.attribute if attribute.name != edit.replaces]
            del node.attribute[:]
            node.attribute.extend(kept)

    def _set_attribute(self, node: onnx.NodeProto, name: str, values: np.ndarray) -> None:
        attribute = next((item for item in node.attribute if item.name == name), None)
        if attribute is None:
            node.attribute.append(helper.make_attribute(name, values.tolist()))
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = int(values[0])
        else:
            attribute.ints[:] = values.tolist()

    def _set_input(self, node: onnx.NodeProto, slot: int, value: np.ndarray) -> None:
        while len(node.input) <= slot:
            node.input.append("")
        node.input[slot] = self._new_constant(f"{node.output[0]}_sizes_{slot}", value)

    def _correct(self, edit: SetSizes, node: onnx.NodeProto, value: np.ndarray) -> None:
        """Known entries from a constant, the others as the graph computes them; before opset 9 without Where."""
        assert isinstance(edit.slot, int)
        known = np.zeros(value.shape, bool)
        known.flat[[*edit.counts, *edit.pinned]] = True
        base, computed = f"{node.output[0]}_sizes_{edit.slot}", node.input[edit.slot]
        output = self.model.free_name(f"{base}_corrected")
        if self._opset >= 9:
            mask, constant = self._new_constant(f"{base}_known", known), self._new_constant(base, value)
            inserted = [helper.make_node("Where", [mask, constant, computed], [output], name=output)]
        else:
            mask = self._new_constant(f"{base}_computed", (~known).astype(value.dtype))
            constant = self._new_constant(base, np.where(known, value, 0))
            masked = self.model.free_name(f"{base}_masked")
            inserted = [
                helper.make_node("Mul", [computed, mask], [masked], name=masked),
                helper.make_node("Add", [masked, constant], [output], name=output),
            ]
        self._inserted.setdefault(edit.node, []).extend(inserted)
        node.input[edit.slot] = output

    def _renumber(self, edit: Renumber) -> None:
        mask = self._mask(edit.labels)
        if not mask.all():
            position = np.cumsum(mask) - 1
            indices = position[edit.indices[mask[edit.indices]]]
            node = self._nodes[edit.node]
            node.input[edit.slot] = self._new_constant(f"{node.output[0]}_indices", indices)

    def _new_constant(self, base: str, value: np.ndarray) -> str:
        name = self.model.free_name(base)
        self.model.add(name, np.array(value))
        return name

    def _unread(self) -> set[str]:
        """Names that no node and no output of the graph reads."""
        index = GraphIndex(self.model)
        made = [*self.model.weights, *(name for node in self._graph.node for name in node.output)]
        return {name for name in made if not index.is_read(name)}

    def _drop_unread(self, unused_before: set[str]) -> None:
        while newly := self._unread() - unused_before:
            gone = newly | unused_before | {""}
            alive = [
                node
                for node in self._graph.node
                if not (set(node.output) <= gone and any(name in newly for name in node.output))
            ]
            stored = {tensor.name for tensor in self._graph.initializer} & newly
            if len(alive) == len(self._graph.node) and not stored:
                return
            del self._graph.node[:]
            self._graph.node.extend(alive)
            self.model.remove(newly)
