"""Hand-made graphs for tests, and the proof that surgery on one of them leaves what masking leaves.

>>> graph = Builder()
>>> hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
>>> proto = graph.model(graph.conv(hidden, 8, 4, name="consumer"))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from masking import kept_shapes, masked
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.channels.groups import Analysis, ChannelGroup, analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.model.initializers import reshare, unshare
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.selection.plan import Plan, reasons_to_leave
from lbyl_onnx.selection.planner import Planner

_ELEMENT_TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "FLOAT16",
    "tensor(double)": "DOUBLE",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(bool)": "BOOL",
}


class Builder:
    """A graph that grows node by node; every method returns the name of the tensor that it made."""

    def __init__(self, opset: int = 17, ir_version: int = 8, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self._ir_version = ir_version
        self._inputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def input(
        self,
        shape: Sequence[int | str] = ("N", 3, 6, 3),
        name: str = "x",
        kind: int = TensorProto.FLOAT,
    ) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, value: Any, dtype: type | None = None, name: str | None = None) -> str:
        """An initializer; Python ints are int64, floats float32."""
        array = np.asarray(value)
        array = array.astype(dtype or {"i": np.int64, "f": np.float32}.get(array.dtype.kind, array.dtype))
        name = name or f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, name: str | None = None) -> str:
        """A normal initializer, scaled by its number of inputs; float32."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(fan_in), name=name)

    def positive(self, *shape: int) -> str:
        """An initializer with values in [0.5, 1.5); float32."""
        return self.constant(self.rng.uniform(0.5, 1.5, shape))

    def nodes(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        base = attributes.pop("name", f"{op.lower()}_{len(self._nodes)}")
        made = [base, *(f"{base}_{number}" for number in range(1, outputs))]
        self._nodes.append(helper.make_node(op, list(inputs), made, name=base, **attributes))
        return made

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, named like it."""
        return self.nodes(op, inputs, 1, **attributes)[0]

    def conv(
        self,
        tensor: str,
        inputs: int,
        filters: int,
        kernel: Sequence[int] = (3, 3),
        group: int = 1,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        """Conv that keeps the spatial size of an odd kernel at stride 1."""
        attributes.setdefault("pads", [size // 2 for size in kernel] * 2)
        weights = [self.weight(filters, inputs // group, *kernel)]
        if bias:
            weights.append(self.weight(filters))
        return self.node("Conv", tensor, *weights, group=group, **attributes)

    def gemm(self, tensor: str, inputs: int, outputs: int, **attributes: Any) -> str:
        return self.node("Gemm", tensor, self.weight(outputs, inputs), self.weight(outputs), transB=1, **attributes)

    def matmul(self, tensor: str, inputs: int, outputs: int, **attributes: Any) -> str:
        return self.node("MatMul", tensor, self.weight(inputs, outputs), **attributes)

    def batch_norm(self, tensor: str, channels: int) -> str:
        shift, mean = self.weight(channels), self.weight(channels)
        return self.node("BatchNormalization", tensor, self.positive(channels), shift, mean, self.positive(channels))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The complete model; types and shapes of the outputs are those that onnxruntime finds."""
        undeclared = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self._nodes, "graph", self._inputs, undeclared, self._weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=self._ir_version)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        for declared, found in zip(proto.graph.output, session.get_outputs(), strict=True):
            kind = TensorProto.DataType.Value(_ELEMENT_TYPES[found.type])
            declared.CopyFrom(helper.make_tensor_value_info(found.name, kind, found.shape))
        return proto


Middle = Callable[[Builder, str], str]


def between(
    middle: Middle,
    opset: int = 17,
    channels: int = 8,
    after: int | None = None,
    space: Sequence[int] = (6, 3),
) -> onnx.ModelProto:
    """Input → Conv "producer" (`channels` filters) → `middle` → Conv "consumer" of `after` channels → output.

    `space` is too narrow for an image, so that probing it does not paint any.
    """
    graph = Builder(opset)
    kernel = [3] * len(space)
    hidden = graph.conv(graph.input(("N", 3, *space)), 3, channels, kernel, name="producer")
    hidden = middle(graph, hidden)
    return graph.model(graph.conv(hidden, after or channels, 4, kernel, name="consumer"))


@dataclass(frozen=True)
class Pruned:
    """A graph with random units removed."""

    analysis: Analysis
    kept: np.ndarray
    model: Model

    def group(self, producer: str) -> ChannelGroup:
        """The group that this node's filters belong to."""
        groups = self.analysis.groups
        return next(group for group in groups if any(port.name == producer for port in group.producers))

    def shape(self, weight: str) -> tuple[int, ...]:
        return self.model.weights[weight].shape


def prune(source: onnx.ModelProto | Model, ratio: float = 0.4, scope: str = "all", seed: int = 0) -> Pruned:
    """Remove random units."""
    model = source if isinstance(source, Model) else load(source)
    analysis = analyse(model, probe(model))
    plan = random_plan(analysis, ratio, scope, seed)
    return Pruned(analysis, plan.kept, cut(analysis, plan.kept))


def random_plan(analysis: Analysis, ratio: float, scope: str = "all", seed: int = 0) -> Plan:
    """A share of all units that can be cut, whether or not their weights can be read."""
    readable = replace(analysis, groups=tuple(replace(group, unreadable=None) for group in analysis.groups))
    return plan_for(readable, ratio=ratio, criterion="random", scope=scope, seed=seed)


def plan_for(analysis: Analysis, calibration: Calibration | None = None, **options: Any) -> Plan:
    """What `compress` chooses with these `PruneOptions`, by default where all groups lose the same share."""
    chosen = PruneOptions(**{"allocation": "uniform", **options})
    reasons = reasons_to_leave(analysis, chosen)
    return Planner(analysis, reasons, chosen, RunOptions("cpu"), calibration).plan(chosen.targets)


def prune_shared(model: Model, ratio: float = 0.4, scope: str = "all") -> Pruned:
    """Remove random units as `compress` does: shared vectors are copied first and become one again in the end."""
    working, origins = unshare(model)
    pruned = prune(working, ratio, scope)
    reshare(pruned.model, origins)
    return pruned


def without_consumed(analysis: Analysis, kept: np.ndarray) -> Model:
    """The analysed model whose consumers ignore removed channels; what those hold does not matter."""
    model = analysis.model.copy()
    for port in analysis.labelling.ports:
        if port.kind == "consumer":
            weight = model.weights[port.tensor]
            along = [-1 if axis == port.axis else 1 for axis in range(weight.ndim)]
            keep = kept[analysis.classes.class_of[port.labels]].reshape(along)
            model.replace(port.tensor, np.where(keep, weight, np.zeros((), weight.dtype)))
    return model


def assert_same_outputs(
    pruned: Pruned,
    reference: Model | None = None,
    tolerance: float = 1e-4,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> None:
    """Outputs equal those of the masked original, relative to its largest one. `shapes`: of dynamic inputs."""
    reference = reference or masked(pruned.analysis, pruned.kept, consumers=True)
    options = SampleOptions(shapes=shapes or {}, seed=1)
    inputs = synthetic_inputs(reference, pruned.analysis.probe.batch, options)
    expected, found = (run(open_session(model), inputs) for model in (reference, pruned.model))
    for left, right in zip(expected, found, strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype
        if left.dtype.kind == "b" or left.size == 0:
            np.testing.assert_array_equal(left, right)
            continue
        scale = np.abs(left.astype(np.float64)).max()
        assert np.isfinite(scale) and scale > 0
        assert np.abs(left.astype(np.float64) - right).max() <= tolerance * scale


def assert_equivalent(pruned: Pruned, reference: Model | None = None, tolerance: float = 1e-4) -> None:
    """As `assert_same_outputs`; also, every tensor has the shape that the labels say and the checker passes."""
    assert_same_outputs(pruned, reference, tolerance)
    tensors = probe(pruned.model).tensors
    expected_shapes = kept_shapes(pruned.analysis, pruned.kept)
    common = tensors.keys() & expected_shapes.keys()
    assert {name: tensors[name].shape for name in common} == {name: expected_shapes[name] for name in common}
    onnx.checker.check_model(pruned.model.to_proto())


def check(
    proto: onnx.ModelProto,
    free: Sequence[str] = (),
    frozen: dict[str, str] | None = None,
    units: int | None = None,
    ratio: float = 0.4,
    reference: Callable[[Analysis, np.ndarray], Model] | None = None,
) -> Pruned:
    """Prune and prove it equivalent, for two draws of units.

    `free`: producers all of whose units can go and some of which have gone; `frozen`: producers that stay
    whole, with a pattern for the reason; `units`: of the first free group.
    """
    for seed in (0, 1):
        pruned = prune(proto, ratio, seed=seed)
        assert_equivalent(pruned, reference and reference(pruned.analysis, pruned.kept))
        for name in free:
            group = pruned.group(name)
            assert group.frozen_reason is None and group.free.all(), (name, group.frozen_reason)
            assert not pruned.kept[group.classes].all()
        for name, reason in (frozen or {}).items():
            group = pruned.group(name)
            assert pruned.kept[group.classes].all()
            assert re.search(reason, group.frozen_reason or "free"), (name, group.frozen_reason)
    if units is not None:
        assert pruned.group(free[0]).units == units
    return pruned
