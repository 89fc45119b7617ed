"""Rows and matrices of weight layers: their product is what onnxruntime computes, at any position."""

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lbyl_onnx.calibration.im2col import position_count, rows_at, sample_rows
from lbyl_onnx.model.graph import GraphIndex
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.model.weight_layer import weight_layer

SAMPLES = 3


def layer_of(model):
    """The only node of a model as a layer; None where rows do not describe it."""
    (node,) = model.proto.graph.node
    layer = weight_layer(GraphIndex(model), node)
    return layer if layer and layer.is_rows else None


def node_and_weight(node, weight):
    """A model of one node whose initializer "w" has this shape."""
    graph = helper.make_graph([node], "graph", [], [])
    graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=weight)
    return Model(helper.make_model(graph), {"w": np.zeros(weight, np.float32)})


def assert_rows(graph, output, bias=0.0):
    """Rows times matrix, plus `bias`, is what onnxruntime gives at some of the positions of the only layer."""
    model = load(graph.model(output))
    layer = layer_of(model)
    weight = layer.weight.read(model)
    shape = [dim.dim_value or SAMPLES for dim in model.proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (found,) = run(open_session(model), {layer.data: x}, [layer.name])
    total = position_count(found, layer)
    positions = np.random.default_rng(2).permutation(total)[: max(1, 2 * total // 3)]
    rows = sample_rows(layer, x, weight.shape[2:] if layer.is_convolution else (), positions, found.shape)
    matrix = layer.matrix(weight)
    assert rows.shape == (layer.groups, len(positions), matrix.shape[2]) and rows.dtype == x.dtype
    expected = np.concatenate([r @ m.T for r, m in zip(rows, matrix, strict=True)], axis=1) + bias
    np.testing.assert_allclose(rows_at(found, layer, positions), expected, rtol=1e-4, atol=1e-5)
    again = layer.weight_like(matrix, weight)
    assert again.shape == weight.shape
    np.testing.assert_allclose(again, weight, rtol=1e-6)
    return layer


def assert_convolution(inputs, filters, size, kernel, group=1, **attributes):
    graph = Builder()
    x = graph.input(("N", inputs, *size))
    attributes.setdefault("pads", [0] * 2 * len(size))
    if "auto_pad" in attributes:
        del attributes["pads"]
    weight, bias = graph.weight(filters, inputs // group, *kernel), graph.rng.standard_normal(filters)
    output = graph.node("Conv", x, weight, graph.constant(bias), group=group, **attributes)
    layer = assert_rows(graph, output, bias)
    assert layer.groups == group and layer.is_convolution


SIZES = {1: (11,), 2: (7, 9), 3: (5, 4, 6)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": 2},
        {"dilations": 2},
        {"pads": "even"},
        {"pads": "uneven"},
        {"pads": "uneven", "strides": 2, "dilations": 2},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER", "strides": 2},
        {"auto_pad": "SAME_LOWER", "strides": 2},
        {"auto_pad": "VALID", "strides": 2},
        {"auto_pad": "NOTSET", "strides": 3},
    ],
    ids=lambda options: "-".join(f"{key}_{value}" for key, value in options.items()) or "plain",
)
def test_convolutions(rank, options):
    options = dict(options)
    kernel = (3, 2, 2)[:rank]
    for name in ("strides", "dilations"):
        if name in options:
            options[name] = [options[name], 1, 2][:rank]
    if "pads" in options:
        options["pads"] = [1] * 2 * rank if options["pads"] == "even" else [0, 1, 2][:rank] + [2, 0, 1][:rank]
    assert_convolution(3, 4, SIZES[rank], kernel, **options)


@pytest.mark.parametrize(("inputs", "filters", "group"), [(4, 6, 2), (6, 6, 6), (3, 6, 3), (8, 4, 4)])
def test_groups_and_depthwise(inputs, filters, group):
    assert_convolution(inputs, filters, (6, 5), (3, 3), group, pads=[1, 0, 1, 2], strides=[2, 1])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_convolution(data):
    rank = data.draw(st.integers(1, 3))
    sizes = st.integers(1, 3)
    kernel, strides, dilations = (data.draw(st.tuples(*[sizes] * rank)) for _ in range(3))
    pads = data.draw(st.tuples(*[st.integers(0, min(k - 1, 2)) for k in kernel * 2]))
    size = [data.draw(st.integers((k - 1) * d + 1, (k - 1) * d + 4)) for k, d in zip(kernel, dilations, strict=True)]
    group = data.draw(st.integers(1, 3))
    inputs, filters = group * data.draw(sizes), group * data.draw(sizes)
    assert_convolution(
        inputs, filters, size, kernel, group, strides=list(strides), dilations=list(dilations), pads=list(pads)
    )


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha", [None, 1.0, 0.25, -3.0])
def test_gemm(transposed, alpha):
    graph = Builder()
    x, bias = graph.input(("N", 5)), graph.rng.standard_normal(4)
    weight = graph.weight(*(4, 5) if transposed else (5, 4))
    attributes = {} if alpha is None else {"alpha": alpha}
    output = graph.node("Gemm", x, weight, graph.constant(bias), transB=transposed, beta=2.0, **attributes)
    layer = assert_rows(graph, output, 2 * bias)
    assert not layer.is_convolution


@pytest.mark.parametrize("shape", [("N", 5), ("N", 7, 5), ("N", 2, 7, 5)])
def test_matmul(shape):
    graph = Builder()
    output = graph.matmul(graph.input(shape), 5, 4)
    assert_rows(graph, output)


def test_positions_may_repeat_and_come_in_any_order():
    graph = Builder()
    model = load(graph.model(graph.conv(graph.input(("N", 3, 4, 5)), 3, 2)))
    layer = layer_of(model)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    all_rows = sample_rows(layer, x, (3, 3), np.arange(40), (2, 2, 4, 5))
    some = np.array([39, 0, 7, 7, 21])
    np.testing.assert_array_equal(sample_rows(layer, x, (3, 3), some, (2, 2, 4, 5)), all_rows[:, some])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_keep_their_type(dtype):
    graph = Builder()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = graph.input(("N", 3), kind=kind)
    weight = graph.constant(graph.rng.standard_normal((3, 4)), dtype)
    model = load(graph.model(graph.node("Gemm", x, weight, alpha=0.5)))
    layer = layer_of(model)
    before = layer.weight.read(model)
    matrix = layer.matrix(before)
    assert matrix.dtype == np.float64 and matrix.shape == (1, 4, 3)
    layer.weight.write(model, layer.weight_like(matrix, before))
    assert model.weights[weight].dtype == dtype
    np.testing.assert_array_equal(model.weights[weight], before)


@pytest.mark.parametrize(
    ("op", "attributes", "weight", "channels", "inputs"),
    [
        ("Conv", {}, (4, 3, 3, 3), 3, 27),
        ("Conv", {"group": 3}, (6, 1, 3, 3), 1, 9),
        ("Gemm", {"transB": 1}, (4, 5), 5, 5),
        ("Gemm", {}, (5, 4), 5, 5),
        ("MatMul", {}, (5, 4), 5, 5),
    ],
)
def test_what_one_output_reads(op, attributes, weight, channels, inputs):
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    value = np.zeros(weight, np.float32)
    layer = layer_of(node_and_weight(node, weight))
    assert (layer.channels_read(value), layer.inputs(value)) == (channels, inputs)
    assert layer.matrix(value).shape[2] == inputs


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "weight"),
    [
        ("MatMul", ["w", "x"], {}, (4, 5)),  # the weight comes first
        ("MatMul", ["x", "w"], {}, (2, 5, 4)),  # a stack of matrices
        ("MatMul", ["x", "w"], {}, (5,)),
        ("Gemm", ["x", "w"], {"transA": 1}, (5, 4)),
        ("Conv", ["x", "computed"], {}, (4, 3, 3, 3)),
        ("ConvTranspose", ["x", "w"], {"group": 3}, (3, 4, 3, 3)),
        ("Gemm", ["x", "w"], {"alpha": 0.0}, (5, 4)),
        ("Relu", ["x"], {}, (5,)),
    ],
)
def test_forms_that_rows_do_not_describe(op, inputs, attributes, weight):
    if op == "Relu":
        inputs = ["x", "w"]  # a node of another kind, whatever it reads
    node = helper.make_node(op, inputs, ["y"], **attributes)
    assert layer_of(node_and_weight(node, weight)) is None


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": 2},
        {"strides": 3, "output_padding": 1},
        {"dilations": 2, "strides": 2},
        {"pads": 1, "strides": 2},
        {"pads": 1, "strides": 2, "output_padding": 1, "dilations": 2},
    ],
    ids=str,
)
def test_transposed_convolutions(rank, options):
    graph = Builder()
    attributes = {name: [value] * rank * (2 if name == "pads" else 1) for name, value in options.items()}
    weight, bias = graph.weight(4, 3, *[3] * rank), graph.rng.standard_normal(3)
    x = graph.input(("N", 4, *SIZES[rank]))
    output = graph.node("ConvTranspose", x, weight, graph.constant(bias), **attributes)
    layer = assert_rows(graph, output, bias)
    assert layer.transposed and layer.channels_read(np.zeros((4, 3, 3))) == 4
    assert layer.inputs(np.zeros((4, 3, 3))) == 12


@pytest.mark.parametrize(
    "attributes", [{"group": 2}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"output_shape": [9, 11]}], ids=str
)
def test_transposed_convolutions_that_rows_do_not_describe(attributes):
    graph = Builder()
    x = graph.input(("N", 4, 5, 6))
    model = load(graph.model(graph.node("ConvTranspose", x, graph.weight(4, 3, 3, 3), **attributes)))
    assert layer_of(model) is None
