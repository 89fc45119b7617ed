"""Weight layers: which axes make and take channels, and the matrix that stands for a weight."""

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper

from lbyl_onnx.model.graph import Constant, GraphIndex
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.model.weight_layer import weight_layer

INPUTS, OUTPUTS = 6, 4


def product(op, left, **attributes):
    """A matrix product of 6 inputs and 4 outputs with its weight, "w", on one side."""

    def build(graph):
        flipped = attributes.get("transA" if left else "transB", 0)
        other = attributes.get("transB" if left else "transA", 0)
        weight = graph.weight(*((INPUTS, OUTPUTS) if left == bool(flipped) else (OUTPUTS, INPUTS)), name="w")
        x = graph.input((5, INPUTS) if left == bool(other) else (INPUTS, 5))
        return graph.node(op, *([weight, x] if left else [x, weight]), name="y", **attributes)

    return build


def convolution(op, group=1, **attributes):
    """A convolution of 6 channels to 4 with a weight, "w"."""

    def build(graph):
        shape = (OUTPUTS, INPUTS // group, 3, 2) if op == "Conv" else (INPUTS, OUTPUTS // group, 3, 2)
        x = graph.input((2, INPUTS, 7, 5))
        return graph.node(op, x, graph.weight(*shape, name="w"), group=group, name="y", **attributes)

    return build


LAYERS = {
    "Conv": convolution("Conv"),
    "Conv, groups": convolution("Conv", group=2),
    "ConvTranspose": convolution("ConvTranspose", strides=[2, 1]),
    "ConvTranspose, groups": convolution("ConvTranspose", group=2),
    "MatMul": product("MatMul", left=False),
    "MatMul, left": product("MatMul", left=True),
    **{
        f"Gemm{', left' if left else ''}, transA {a}, transB {b}": product("Gemm", left, transA=a, transB=b, alpha=0.5)
        for left in (False, True)
        for a in (0, 1)
        for b in (0, 1)
    },
}
LEFT = [name for name in LAYERS if "left" in name]
NO_ROWS = {*LEFT, "ConvTranspose, groups", "Gemm, transA 1, transB 0", "Gemm, transA 1, transB 1"}


def layer_of(proto):
    """The layer that makes the first output, and its model."""
    model = load(proto)
    index = GraphIndex(model)
    return weight_layer(index, index.maker(proto.graph.output[0].name)), model


def build(layer):
    graph = Builder()
    return layer_of(graph.model(layer(graph)))


def result(model):
    shape = [dim.dim_value for dim in model.proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return x, run(open_session(model), {"x": x})[0]


@pytest.mark.parametrize("name", LAYERS)
def test_axes_of_channels(name):
    """Of the data, the output and the weight: where the 6 inputs and the 4 outputs lie."""
    layer, model = build(LAYERS[name])
    x, y = result(model)
    weight = layer.weight.read(model)
    assert (layer.name, layer.data, layer.weight, layer.bias) == ("y", "x", Constant("w", weight.dtype, True), None)
    assert layer.weight_slot == (0 if name in LEFT else 1) and layer.is_convolution == name.startswith("Conv")
    assert x.shape[layer.data_axis] == INPUTS and y.shape[layer.channel_axis] == OUTPUTS
    read, made = weight.shape[layer.input_axis], weight.shape[layer.output_axis]
    grouped = "groups" in name
    assert layer.groups == (2 if grouped else 1) and layer.transposed == name.startswith("ConvTranspose")
    if layer.transposed:
        assert (read, made * layer.groups) == (INPUTS, OUTPUTS)
    else:
        assert (read * layer.groups, made) == (INPUTS, OUTPUTS)
    assert layer.is_rows == (name not in NO_ROWS)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in NO_ROWS])
def test_a_weight_is_read_as_a_matrix_and_written_back(name):
    """A matrix of twice the size doubles what onnxruntime computes."""
    layer, model = build(LAYERS[name])
    _, before = result(model)
    weight = layer.weight.read(model)
    matrix = layer.matrix(weight)
    assert matrix.dtype == np.float64 and matrix.shape == (layer.groups, OUTPUTS // layer.groups, layer.inputs(weight))
    np.testing.assert_array_equal(layer.weight_like(matrix, weight), weight)
    layer.weight.write(model, layer.weight_like(2 * matrix, weight))
    assert model.weights["w"].shape == weight.shape and model.weights["w"].dtype == weight.dtype
    np.testing.assert_allclose(result(model)[1], 2 * before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["MatMul", "Gemm, transA 0, transB 0", "Gemm, transA 0, transB 1"])
def test_rows_of_a_product(name):
    layer, model = build(LAYERS[name])
    x, y = result(model)
    np.testing.assert_allclose(x @ layer.matrix(layer.weight.read(model))[0].T, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Conv", "Conv, groups", "ConvTranspose"])
def test_rows_of_a_convolution_go_tap_by_tap(name):
    layer, model = build(LAYERS[name])
    weight = layer.weight.read(model)
    matrix = layer.matrix(weight)
    inputs = INPUTS // layer.groups
    for output in range(OUTPUTS):
        group, row = divmod(output, OUTPUTS // layer.groups)
        own = weight[:, output] if layer.transposed else weight[output]
        np.testing.assert_array_equal(matrix[group, row], own.reshape(inputs, -1).T.ravel())
    assert layer.channels_read(weight) == inputs and layer.inputs(weight) == 6 * inputs


def test_factors_and_bias():
    graph = Builder()
    bias = graph.node("Identity", graph.weight(OUTPUTS, name="b"))
    weight = graph.weight(INPUTS, OUTPUTS, name="w")
    layer, _ = layer_of(graph.model(graph.node("Gemm", graph.input((5, INPUTS)), weight, bias, alpha=0.5, beta=3.0)))
    assert (layer.alpha, layer.beta, layer.has_bias_slot) == (0.5, 3.0, True)
    assert layer.bias == Constant("b", np.dtype(np.float32), exclusive=True)
    plain, _ = build(LAYERS["MatMul"])
    assert (plain.alpha, plain.beta, plain.has_bias_slot, plain.bias) == (1.0, 1.0, False, None)


def test_a_computed_bias_is_not_described():
    graph = Builder()
    inputs = graph.input((5, INPUTS)), graph.weight(INPUTS, OUTPUTS), graph.node("Neg", graph.weight(OUTPUTS))
    layer, _ = layer_of(graph.model(graph.node("Gemm", *inputs)))
    assert layer.bias is None and layer.has_bias_slot


def test_a_weight_behind_identity_and_cast():
    """It is read as the operator sees it and written as it is stored."""
    graph = Builder()
    stored = graph.constant(graph.rng.standard_normal((INPUTS, OUTPUTS)), np.float16, name="w")
    weight = graph.node("Cast", graph.node("Identity", stored), to=TensorProto.FLOAT)
    layer, model = layer_of(graph.model(graph.node("MatMul", graph.input((5, INPUTS)), weight)))
    assert layer.weight == Constant("w", np.dtype(np.float32), exclusive=True) and layer.is_rows
    x, before = result(model)
    value = layer.weight.read(model)
    np.testing.assert_allclose(x @ layer.matrix(value)[0].T, before, rtol=1e-4, atol=1e-5)
    layer.weight.write(model, layer.weight_like(-layer.matrix(value), value))
    assert model.weights["w"].dtype == np.float16
    np.testing.assert_allclose(result(model)[1], -before, rtol=1e-4, atol=1e-5)


def test_a_weight_that_two_layers_read_is_not_exclusive():
    graph = Builder()
    weight = graph.weight(INPUTS, INPUTS, name="w")
    hidden = graph.node("MatMul", graph.input((5, INPUTS)), weight)
    layer, _ = layer_of(graph.model(graph.node("MatMul", hidden, weight)))
    assert layer.weight == Constant("w", np.dtype(np.float32), exclusive=False)


def other(op, shape, x=("N", 6), **attributes):
    graph = Builder()
    inputs = [graph.input(x), graph.weight(*shape)]
    return graph.model(graph.node(op, *inputs, **attributes))


@pytest.mark.parametrize(
    "proto",
    [
        other("Add", (6,)),
        other("MatMul", (2, 6, 4), (2, 5, 6)),
        other("MatMul", (6,)),
    ],
    ids=["another operator", "a stack of matrices", "a vector"],
)
def test_what_is_no_layer(proto):
    assert layer_of(proto)[0] is None


def test_weights_that_are_computed_or_no_floating_point_numbers():
    graph = Builder()
    x = graph.input((5, INPUTS))
    computed = graph.node("MatMul", x, graph.node("Neg", graph.weight(INPUTS, OUTPUTS)))
    assert layer_of(graph.model(computed))[0] is None
    graph = Builder()
    ids = graph.input((5, INPUTS), kind=TensorProto.INT32)
    whole = graph.node("MatMul", ids, graph.constant(np.ones((INPUTS, OUTPUTS)), np.int32))
    assert layer_of(graph.model(whole))[0] is None


@pytest.mark.parametrize(
    ("node", "data", "output", "expected"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), (2, 5, 9, 9), (2, 4, 7, 7), True),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (3, 5, 9, 9), (2, 4, 7, 7), False),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 7, 5), (2, 7, 4), True),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 6, 5), (2, 7, 4), False),
    ],
)
def test_data_of_another_model_pairs_with_an_output(node, data, output, expected):
    """Samples of a convolution, rows of a matrix product have to be as many; channels may differ."""
    graph = helper.make_graph([node], "graph", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name="y")])
    shape = (4, 5, 3, 3) if node.op_type == "Conv" else (5, 4)
    graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, shape, np.zeros(shape).ravel()))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, data))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, output))
    layer, _ = layer_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert layer.pairs(np.zeros(data), np.zeros(output)) is expected
