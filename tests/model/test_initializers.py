"""Vectors that exporters stored once for several readers are taken apart, and put together again."""

import numpy as np
import onnx
import pytest
from conftest import ROOT
from graphs import Builder, assert_equivalent, prune
from onnx import helper
from uniform import compress

from lbyl_onnx.model.initializers import reshare, unshare
from lbyl_onnx.model.reading import load


def shared_bias(ir_version=8, through="", bias=None):
    """Two convolutions of 8 filters with one bias vector, "bias"; the second reads it through an operator."""
    graph = Builder(ir_version=ir_version)
    bias = graph.constant(np.zeros(8, np.float32) if bias is None else bias, name="bias")
    second = graph.node(through, bias) if through else bias
    hidden = graph.node("Conv", graph.input(), graph.weight(8, 3, 1, 1), bias, name="first")
    hidden = graph.node("Conv", graph.node("Relu", hidden), graph.weight(8, 8, 1, 1), second, name="second")
    proto = graph.model(graph.conv(graph.node("Relu", hidden), 8, 3, name="last"))
    if ir_version < 4:
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def serialized(model):
    return model.to_proto().SerializeToString(deterministic=True)


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("through", ["", "Identity"])
def test_without_surgery_the_round_trip_changes_nothing(ir_version, through):
    model = load(shared_bias(ir_version, through))
    before = serialized(model)
    copied, origins = unshare(model)
    assert origins == {"bias_copy1": "bias"}
    assert serialized(model) == before != serialized(copied)
    onnx.checker.check_model(copied.to_proto())
    reshare(copied, origins)
    assert serialized(copied) == before


def test_every_reader_but_the_first_gets_a_copy():
    graph = Builder()
    bias = graph.constant(np.ones(8, np.float32), name="bias")
    x = graph.input()
    for inputs in (3, 8, 8):
        x = graph.node("Conv", x, graph.weight(8, inputs, 1, 1), bias)
    copied, origins = unshare(load(graph.model(x)))
    read = [node.input[2] for node in copied.proto.graph.node]
    assert read == ["bias", *origins] and set(origins.values()) == {"bias"}
    for name in origins:
        np.testing.assert_array_equal(copied.weights[name], np.ones(8))


def test_a_node_that_reads_a_vector_twice_needs_no_copy():
    graph = Builder()
    ones, zeros = graph.constant(np.ones(8, np.float32)), graph.constant(np.zeros(8, np.float32))
    hidden = graph.conv(graph.input(), 3, 8)
    hidden = graph.node("BatchNormalization", hidden, ones, zeros, zeros, ones)
    assert unshare(load(graph.model(hidden)))[1] == {}


@pytest.mark.parametrize(
    "value",
    [np.zeros((3, 3), np.float32), np.float32(1), np.ones(1, np.float32), np.arange(8)],
    ids=["matrix", "scalar", "one element", "integers"],
)
def test_other_constants_stay_shared(value):
    graph = Builder()
    constant = graph.constant(value)
    outputs = [graph.node("Identity", constant), graph.node("Abs", constant)]
    model = load(graph.model(*outputs))
    copied, origins = unshare(model)
    assert origins == {} and serialized(copied) == serialized(model)


@pytest.mark.parametrize("shape", [(8,), (8, 1, 1), (1, 8)])
def test_vectors_of_any_rank(shape):
    graph = Builder()
    vector = graph.constant(np.ones(shape, np.float32))
    outputs = [graph.node("Neg", vector), graph.node("Abs", vector)]
    assert len(unshare(load(graph.model(*outputs)))[1]) == 1


def test_names_of_copies_are_new():
    proto = shared_bias()
    taken = next(node for node in proto.graph.node if node.op_type == "Relu").output[0]
    for node in proto.graph.node:
        node.input[:] = ["bias_copy1" if name == taken else name for name in node.input]
        node.output[:] = ["bias_copy1" if name == taken else name for name in node.output]
    assert unshare(load(proto))[1] == {"bias_copy1_1": "bias"}


def pruned_by_compress(proto):
    return compress(proto, 0.5, criterion="random", restore="none", validation=False).compressed


def test_copies_that_stay_equal_become_one_again():
    compressed = pruned_by_compress(shared_bias())
    readers = [node.input[2] for node in compressed.proto.graph.node if node.name in ("first", "second")]
    assert readers == ["bias", "bias"] and compressed.weights["bias"].shape == (4,)
    assert "bias_copy1" not in compressed.weights


def test_copies_that_come_to_differ_stay_apart():
    bias = np.arange(8, dtype=np.float32)
    compressed = pruned_by_compress(shared_bias(bias=bias))
    readers = [node.input[2] for node in compressed.proto.graph.node if node.name in ("first", "second")]
    assert readers == ["bias", "bias_copy1"]
    assert (compressed.weights["bias"] != compressed.weights["bias_copy1"]).any()
    assert compressed.weights["bias"].shape == compressed.weights["bias_copy1"].shape == (4,)


def test_layers_are_pruned_apart():
    """Taken literally, one bias would tie the units of both layers."""
    model = load(shared_bias())
    copied, _ = unshare(model)
    tied, free = (prune(source).analysis.groups for source in (model, copied))
    assert len(tied[0].producers) == 2 and [len(group.producers) for group in free] == [1, 1, 1]


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_model_as_exported(ratio):
    """digits_resnet shares biases of normalisations between a branch and its shortcut, through Identity nodes."""
    model = load(ROOT / "models" / "digits_resnet.onnx")
    copied, origins = unshare(model)
    assert origins
    pruned = prune(copied, ratio)
    assert_equivalent(pruned)
    reshare(pruned.model, origins)
    for copy in origins.keys() & pruned.model.weights.keys():
        assert (pruned.model.weights[copy] != pruned.model.weights[origins[copy]]).any()
    if ratio == 0:
        assert serialized(pruned.model) == serialized(model)
    assert_equivalent(pruned)
