"""Surgery leaves what masking leaves: on graphs drawn at random, on trained models; and nothing else changes."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, shared_files
from graphs import Builder, assert_equivalent, between, check, plan_for, prune, prune_shared
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from masking import masked
from onnx import TensorProto, helper

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.model.reading import load

settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ACTIVATIONS = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish"]
WIDTHS = st.integers(2, 8)


class Drawn:
    """A network that is drawn step by step; every step maps a tensor (name, channels) to the next one."""

    def __init__(self, draw):
        self.draw = draw
        self.graph = Builder(seed=draw(st.integers(0, 99)))
        self.earlier = []

    def convolve(self, x, channels, filters=None):
        filters = filters or self.draw(WIDTHS)
        kernel = self.draw(st.sampled_from([(1, 1), (3, 3)]))
        return self.graph.conv(x, channels, filters, kernel, bias=self.draw(st.booleans())), filters

    def activate(self, x, channels):
        return self.graph.node(self.draw(st.sampled_from(ACTIVATIONS)), x), channels

    def normalise(self, x, channels):
        return self.graph.batch_norm(x, channels), channels

    def pool(self, x, channels):
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        return self.graph.node(op, x, kernel_shape=[3, 3], pads=[1] * 4), channels

    def depthwise(self, x, channels):
        multiplier = self.draw(st.sampled_from([1, 2]))
        return self.graph.conv(x, channels, channels * multiplier, group=channels), channels * multiplier

    def grouped(self, x, channels):
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if channels % g == 0]))
        filters = groups * self.draw(st.integers(1, 3))
        return self.graph.conv(x, channels, filters, group=groups), filters

    def residual(self, x, channels):
        inner, width = self.activate(*self.convolve(x, channels))
        return self.graph.node("Add", x, self.convolve(inner, width, channels)[0]), channels

    def gate(self, x, channels):
        """Squeeze and excitation."""
        pooled = self.graph.node("GlobalAveragePool", x)
        hidden, width = self.activate(*self.convolve(pooled, channels))
        scale = self.graph.node("Sigmoid", self.convolve(hidden, width, channels)[0])
        return self.graph.node("Mul", x, scale), channels

    def concatenate(self, x, channels):
        other, width = self.convolve(x, channels)
        return self.graph.node("Concat", x, other, axis=1), channels + width

    def split(self, x, channels):
        """Cut, one part through a convolution of its own, and joined in the other order."""
        if channels < 2:
            return x, channels
        first = self.draw(st.integers(1, channels - 1))
        sizes = self.graph.constant([first, channels - first])
        left, right = self.graph.nodes("Split", [x, sizes], 2, axis=1)
        left, width = self.convolve(left, first)
        return self.graph.node("Concat", right, left, axis=1), width + channels - first

    def gated_halves(self, x, channels):
        if channels % 2:
            return x, channels
        value, gate = self.graph.nodes("Split", [x], 2, axis=1)
        return self.graph.node("Mul", value, self.graph.node("Sigmoid", gate)), channels // 2

    def channels_last(self, x, channels):
        turned = self.graph.node("Transpose", x, perm=[0, 2, 3, 1])
        width = self.draw(WIDTHS)
        turned = self.graph.node("Add", self.graph.matmul(turned, channels, width), self.graph.weight(width))
        return self.graph.node("Transpose", turned, perm=[0, 3, 1, 2]), width

    def shuffle(self, x, channels):
        if channels % 2:
            return x, channels
        cut_up = self.graph.node("Reshape", x, self.graph.constant([0, 2, channels // 2, 4, 3]))
        turned = self.graph.node("Transpose", cut_up, perm=[0, 2, 1, 3, 4])
        return self.graph.node("Reshape", turned, self.graph.constant([0, channels, 4, 3])), channels

    def join(self, x, channels):
        """With a tensor from further up: summed where the widths allow it, else side by side."""
        other, width = self.draw(st.sampled_from(self.earlier))
        if width == channels:
            return self.graph.node("Add", x, other), channels
        return self.graph.node("Concat", other, x, axis=1), channels + width

    STEPS = (
        *(convolve, activate, normalise, pool, depthwise, grouped, residual, gate, concatenate),
        *(split, gated_halves, channels_last, shuffle, join),
    )

    def head(self, x, channels):
        kind = self.draw(st.sampled_from(["convolution", "pooled", "flattened", "two outputs"]))
        graph = self.graph
        if kind == "convolution":
            return [graph.conv(x, channels, 3)]
        if kind == "pooled":
            pooled = graph.node("Flatten", graph.node("GlobalAveragePool", x))
            return [graph.gemm(pooled, channels, 3)]
        width = self.draw(WIDTHS)
        hidden = graph.node("Relu", graph.gemm(graph.node("Flatten", x), channels * 12, width))
        outputs = [graph.gemm(hidden, width, 3)]
        return outputs if kind == "flattened" else [*outputs, graph.conv(x, channels, 2)]


@st.composite
def networks(draw):
    drawn = Drawn(draw)
    tensor = drawn.convolve(drawn.graph.input(("N", 3, 4, 3)), 3)
    for step in draw(st.lists(st.sampled_from(Drawn.STEPS), min_size=1, max_size=7)):
        drawn.earlier.append(tensor)
        tensor = step(drawn, *tensor)
    return drawn.graph.model(*drawn.head(*tensor))


@given(networks(), st.sampled_from(["chains", "all"]), st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 9))
def test_drawn_networks_equal_their_masked_originals(proto, scope, ratio, seed):
    pruned = prune(proto, ratio, scope, seed)
    assume(not pruned.kept.all())
    assert_equivalent(pruned)


MODELS = [*sorted((ROOT / "models").glob("*.onnx")), *shared_files("models")]


@pytest.mark.parametrize("scope", ["chains", "all"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_trained_models_equal_their_masked_originals(path: Path, scope):
    pruned = prune_shared(load(path), scope=scope)
    assert not pruned.kept.all()
    assert_equivalent(pruned)


def declared(proto):
    """Everything that surgery must leave alone."""
    graph = proto.graph
    return (
        [(value.name, value.type.SerializeToString()) for value in (*graph.input, *graph.output)],
        [(entry.domain, entry.version) for entry in proto.opset_import],
        [(entry.key, entry.value) for entry in proto.metadata_props],
        [(node.name, node.op_type, node.domain, list(node.output)) for node in graph.node],
        (proto.ir_version, proto.producer_name, proto.producer_version, graph.name, graph.doc_string),
    )


def test_names_types_dynamic_axes_opsets_and_metadata_stay():
    proto = between(lambda graph, x: graph.node("Relu", graph.batch_norm(x, 8)))
    proto.producer_name, proto.producer_version, proto.graph.doc_string = "an exporter", "7", "a network"
    helper.set_model_props(proto, {"classes": "cat,dog", "licence": "MIT"})
    pruned = prune(proto)
    emitted = pruned.model.to_proto()
    assert declared(emitted) == declared(proto)
    assert emitted.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    onnx.checker.check_model(emitted, full_check=True)


def test_the_analysed_model_stays_as_it_is():
    model = load(between(lambda graph, x: x))
    before = model.to_proto().SerializeToString()
    prune(model)
    assert model.to_proto().SerializeToString() == before


def test_keeping_everything_changes_nothing():
    proto = between(lambda graph, x: graph.conv(x, 8, 8, group=8))
    model = load(proto)
    analysis = analyse(model, probe(model))
    same = cut(analysis, np.ones(analysis.classes.count, bool))
    assert same.to_proto().SerializeToString() == model.to_proto().SerializeToString()


def test_values_come_from_the_model_that_is_given():
    model = load(between(lambda graph, x: x))
    analysis = analyse(model, probe(model))
    kept = plan_for(analysis, ratio=0.5, criterion="random").kept
    doubled = model.copy()
    name = analysis.groups[0].producers[0].weight.name
    doubled.replace(name, 2 * model.weights[name])
    np.testing.assert_array_equal(cut(analysis, kept, doubled).weights[name], 2 * cut(analysis, kept).weights[name])


def test_value_infos_follow():
    proto = between(lambda graph, x: graph.node("Relu", x))
    proto = onnx.shape_inference.infer_shapes(proto)
    infos = {info.name: info for info in prune(proto).model.proto.graph.value_info}
    shape = [dim.dim_param or dim.dim_value for dim in infos["producer"].type.tensor_type.shape.dim]
    assert shape == ["N", 4, 6, 3]


def reshaped(extra=()):
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    if "unread" in extra:
        graph.constant([1, 2], name="unread")
    flat = graph.node("Reshape", hidden, graph.constant([-1, 144], name="target"))
    if "shared" in extra:
        other = graph.node("Reshape", graph.input(("N", 3, 6, 8), "y"), "target")
        return graph.model(graph.gemm(flat, 144, 4), other)
    return graph.model(graph.gemm(flat, 144, 4))


def test_a_constant_that_is_replaced_goes():
    names = {tensor.name for tensor in prune(reshaped()).model.proto.graph.initializer}
    assert "target" not in names


def test_a_constant_that_others_read_stays():
    pruned = check(reshaped(["shared"]), free=["producer"])
    np.testing.assert_array_equal(pruned.model.weights["target"], [-1, 144])


def test_a_constant_that_nobody_ever_read_stays():
    assert "unread" in prune(reshaped(["unread"])).model.weights


def test_new_names_avoid_those_taken():
    proto = reshaped()
    output = next(node.output[0] for node in proto.graph.node if node.op_type == "Reshape")
    for node in proto.graph.node:
        node.input[:] = [f"{output}_sizes_1" if name == "target" else name for name in node.input]
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("target", f"{output}_sizes_1")
    check(proto, free=["producer"])


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floating_types(dtype):
    array = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}[dtype]
    graph = Builder()
    weights = [graph.constant(graph.rng.standard_normal((6, 8)), array), graph.constant(np.ones(8), array)]
    hidden = graph.node("Gemm", graph.input(("N", 6), kind=dtype), *weights, name="producer")
    proto = graph.model(graph.node("MatMul", hidden, graph.constant(graph.rng.standard_normal((8, 3)), array)))
    pruned = prune(proto)
    reference = masked(pruned.analysis, pruned.kept, consumers=True)
    assert_equivalent(pruned, reference, tolerance=2e-3 if dtype == TensorProto.FLOAT16 else 1e-12)
    assert all(tensor.data_type == dtype for tensor in pruned.model.to_proto().graph.initializer)
