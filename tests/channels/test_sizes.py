"""Sizes that graphs compute for themselves, as exporters write them."""

import numpy as np
import pytest
from graphs import Builder, assert_same_outputs, between, check
from onnx import TensorProto, helper

INT_MAX = 2**63 - 1


def size(graph, x, axis):
    """One entry of the shape of `x`, as a vector."""
    entry = graph.node("Gather", graph.node("Shape", x), graph.constant(axis), axis=0)
    return graph.node("Unsqueeze", entry, graph.constant([0]))


def target(graph, *entries):
    """A shape, of vectors and of numbers."""
    parts = [entry if isinstance(entry, str) else graph.constant([entry]) for entry in entries]
    return graph.node("Concat", *parts, axis=0)


def convolved(graph, shape=("N", 3, 6, 3)):
    return graph.conv(graph.input(shape), 3, 8, name="producer")


def reads(pruned, op):
    """Names of what the first node of this operator reads."""
    return next(node for node in pruned.model.proto.graph.node if node.op_type == op).input


def test_the_batch_stays_dynamic():
    graph = Builder()
    hidden = convolved(graph)
    flat = graph.node("Reshape", hidden, target(graph, size(graph, hidden, 0), 144))
    pruned = check(graph.model(graph.gemm(flat, 144, 3)), free=["producer"], units=8)
    assert_same_outputs(pruned, shapes={"x": (5, 3, 6, 3)})


def test_a_computed_shape_in_an_opset_without_where():
    graph = Builder(opset=8, ir_version=3)
    hidden = convolved(graph)
    batch = graph.node("Gather", graph.node("Shape", hidden), graph.constant(0), axis=0)
    batch = graph.node("Unsqueeze", batch, axes=[0])
    flat = graph.node("Reshape", hidden, target(graph, batch, 144))
    proto = graph.model(graph.gemm(flat, 144, 3))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    pruned = check(proto, free=["producer"], units=8)
    assert_same_outputs(pruned, shapes={"x": (5, 3, 6, 3)})


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_dynamic_length_stays_dynamic(batch):
    graph = Builder()
    hidden = graph.matmul(graph.input((batch, "L", 6)), 6, 8, name="producer")
    shape = target(graph, *(size(graph, hidden, axis) for axis in range(3)))
    hidden = graph.node("Reshape", graph.node("Relu", hidden), shape)
    pruned = check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)
    assert_same_outputs(pruned, shapes={"x": (1, 7, 6)})


def test_a_dynamic_size_of_images_stays_dynamic():
    graph = Builder()
    hidden = graph.conv(graph.input((1, 3, "H", "W")), 3, 8, name="producer")
    shape = target(graph, *(size(graph, hidden, axis) for axis in range(3)), -1)
    hidden = graph.node("Reshape", graph.node("Relu", hidden), shape)
    pruned = check(graph.model(graph.conv(hidden, 8, 3)), free=["producer"], units=8)
    assert_same_outputs(pruned, shapes={"x": (1, 3, 9, 7)})


def test_a_dynamic_size_of_volumes_stays_dynamic():
    graph = Builder()
    hidden = graph.conv(graph.input((1, 1, "D", 4, 2)), 1, 8, (1, 1, 1), name="producer")
    hidden = graph.node("Reshape", hidden, target(graph, 1, 8, size(graph, hidden, 2), 8))
    pruned = check(graph.model(graph.conv(hidden, 8, 3, (1, 1))), free=["producer"], units=8)
    assert_same_outputs(pruned, shapes={"x": (1, 1, 5, 4, 2)})


def test_channels_from_the_shape():
    graph = Builder()
    hidden = convolved(graph)
    shape = target(graph, size(graph, hidden, 0), size(graph, hidden, 1), -1)
    tokens = graph.node("Transpose", graph.node("Reshape", hidden, shape), perm=[0, 2, 1])
    check(graph.model(graph.matmul(tokens, 8, 3)), free=["producer"], units=8)


def test_a_product_of_channels_and_space():
    graph = Builder()
    hidden = convolved(graph)
    features = graph.node("Mul", size(graph, hidden, 1), graph.constant([18]))
    flat = graph.node("Reshape", hidden, target(graph, -1, features))
    check(graph.model(graph.gemm(flat, 144, 3)), free=["producer"], units=8)


def test_sizes_of_a_static_shape_leave_no_trace_of_their_calculation():
    graph = Builder()
    hidden = convolved(graph, (2, 3, 6, 3))
    flat = graph.node("Reshape", hidden, target(graph, size(graph, hidden, 0), -1))
    back = graph.node("Reshape", graph.node("Relu", flat), graph.node("Shape", hidden))
    pruned = check(graph.model(graph.conv(back, 8, 3)), free=["producer"], units=8)
    second = [node for node in pruned.model.proto.graph.node if node.op_type == "Reshape"][1]
    np.testing.assert_array_equal(pruned.model.weights[second.input[1]], [2, 4, 6, 3])


def test_a_batch_multiplied_with_channels_keeps_them():
    graph = Builder()
    hidden = convolved(graph)
    rows = graph.node("Mul", size(graph, hidden, 0), size(graph, hidden, 1))
    rows = graph.node("Reshape", hidden, target(graph, rows, 18))
    check(
        graph.model(graph.matmul(rows, 18, 3)),
        frozen={"producer": "reads a size computed from them and from the input's size"},
    )


@pytest.mark.parametrize("bounds", [{}, {"start": 1, "end": 3}, {"start": -3}, {"end": -1}])
def test_a_part_of_a_shape(bounds):
    graph = Builder()
    hidden = convolved(graph, (2, 3, 6, 3))
    entries = list(range(4))[bounds.get("start", 0) : bounds.get("end")]
    shape = [2, 8, 6, 3]
    part = graph.node("Shape", hidden, **bounds)
    full = target(graph, *shape[: entries[0]], part, *shape[entries[-1] + 1 :])
    hidden = graph.node("Reshape", graph.node("Relu", hidden), full)
    check(graph.model(graph.conv(hidden, 8, 3)), free=["producer"], units=8)


def attention(graph, x, scale):
    query, key = (graph.matmul(x, 6, 8, name=name) for name in ("query", "key"))
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 2, 1]))
    return graph.node("Softmax", graph.node("Div", scores, scale(query)), axis=-1)


def test_the_scale_of_an_attention_keeps_its_value():
    graph = Builder()

    def scale(query):
        width = graph.node("Gather", graph.node("Shape", query), graph.constant(-1), axis=0)
        return graph.node("Sqrt", graph.node("Cast", width, to=TensorProto.FLOAT))

    weights = attention(graph, graph.input(("N", 5, 6)), scale)
    pruned = check(graph.model(weights), free=["query", "key"], units=8)
    np.testing.assert_allclose(pruned.model.weights[reads(pruned, "Div")[1]], np.sqrt(8), rtol=1e-6)


def test_a_scale_from_channels_and_a_dynamic_length_keeps_the_channels():
    graph = Builder()

    def scale(query):
        count = graph.node("Size", graph.node("Slice", query, *map(graph.constant, ([0], [1], [0]))))
        return graph.node("Sqrt", graph.node("Cast", count, to=TensorProto.FLOAT))

    weights = attention(graph, graph.input(("N", "L", 6)), scale)
    frozen = "reads a size computed from them and from the input's size"
    check(graph.model(weights), frozen={"query": frozen, "key": frozen})


def test_the_mean_over_channels_by_hand_keeps_them():
    def middle(graph, x):
        total = graph.node("ReduceSum", x, graph.constant([1]))
        count = graph.node("Cast", size(graph, x, 1), to=TensorProto.FLOAT)
        return graph.node("Sub", x, graph.node("Div", total, count))

    check(between(middle), frozen={"producer": "reduces over them"})


def test_a_constant_of_a_computed_shape_joins_the_channels():
    """A class token of zeros, put in front of the tokens."""
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    shape = target(graph, size(graph, hidden, 0), 1, size(graph, hidden, 2))
    token = graph.node("ConstantOfShape", shape)
    joined = graph.node("Concat", token, hidden, axis=1)
    check(graph.model(graph.matmul(joined, 8, 3)), free=["producer"], units=8)


def test_a_constant_of_a_computed_shape_put_beside_the_channels():
    graph = Builder()
    hidden = convolved(graph, (2, 3, 6, 3))
    zeros = graph.node("ConstantOfShape", graph.node("Shape", hidden))
    joined = graph.node("Concat", hidden, zeros, axis=1)
    check(graph.model(graph.conv(joined, 16, 3)), free=["producer"], units=8)


def test_a_constant_of_a_calculated_shape_keeps_the_channels():
    graph = Builder()
    hidden = convolved(graph, (2, 3, 6, 3))
    doubled = graph.node("Mul", size(graph, hidden, 1), graph.constant([2]))
    zeros = graph.node("ConstantOfShape", target(graph, 2, doubled, 6, 3))
    joined = graph.node("Concat", hidden, zeros, axis=1)
    check(graph.model(graph.conv(joined, 24, 3)), frozen={"producer": "size 'concat_\\d+' is computed"})


def test_positions_by_range():
    graph = Builder()
    tokens = graph.input(("N", "L"), "tokens", TensorProto.INT64)
    hidden = graph.node("Gather", graph.weight(10, 8), tokens, name="producer")
    length = graph.node("Gather", graph.node("Shape", hidden), graph.constant(1), axis=0)
    places = graph.node("Range", graph.constant(0), length, graph.constant(1))
    hidden = graph.node("Add", hidden, graph.node("Gather", graph.weight(64, 8), places))
    check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)


def test_channels_numbered_by_range_stay():
    def middle(graph, x):
        count = graph.node("Gather", graph.node("Shape", x), graph.constant(1), axis=0)
        places = graph.node("Range", graph.constant(0), count, graph.constant(1))
        return graph.node("Gather", x, places, axis=1)

    check(between(middle), frozen={"producer": "picks single ones of them"})


def test_halves_by_slices_whose_ends_are_computed():
    """The chunks of a gated unit."""
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 12, name="producer")
    half = graph.node("Div", size(graph, hidden, 1), graph.constant([2]))
    axis = graph.constant([1])
    value = graph.node("Slice", hidden, graph.constant([0]), half, axis)
    twice = graph.node("Mul", half, graph.constant([2]))
    gate = graph.node("Slice", hidden, half, twice, axis)
    hidden = graph.node("Mul", value, graph.node("Sigmoid", gate))
    check(graph.model(graph.conv(hidden, 6, 4)), free=["producer"], units=6)


def test_halves_by_a_split_whose_sizes_are_computed():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 12, name="producer")
    half = graph.node("Div", size(graph, hidden, 1), graph.constant([2]))
    sizes = graph.node("Concat", half, half, axis=0)
    value, gate = graph.nodes("Split", [hidden, sizes], 2, axis=1)
    hidden = graph.node("Mul", value, graph.node("Sigmoid", gate))
    check(graph.model(graph.conv(hidden, 6, 4)), free=["producer"], units=6)


def test_expand_to_the_shape_of_another():
    graph = Builder()
    hidden = convolved(graph)
    gate = graph.node("GlobalAveragePool", hidden)
    gate = graph.node("Expand", gate, graph.node("Shape", hidden))
    hidden = graph.node("Mul", hidden, gate)
    check(graph.model(graph.conv(hidden, 8, 3)), free=["producer"], units=8)


def test_expand_of_a_row_to_the_shape_of_another():
    graph = Builder()
    hidden = convolved(graph)
    row = graph.node("Expand", graph.weight(8, 1, 1, name="row"), graph.node("Shape", hidden))
    hidden = graph.node("Add", hidden, row)
    pruned = check(graph.model(graph.conv(hidden, 8, 3)), free=["producer"], units=8)
    assert pruned.shape("row") == (4, 1, 1)


def test_resize_to_sizes_of_which_two_are_copied():
    graph = Builder()
    hidden = convolved(graph)
    shape = graph.node("Shape", hidden)
    first = graph.node("Slice", shape, *map(graph.constant, ([0], [2], [0])))
    sizes = graph.node("Concat", first, graph.constant([12, 6]), axis=0)
    hidden = graph.node("Resize", hidden, "", "", sizes, mode="nearest")
    check(graph.model(graph.conv(hidden, 8, 3)), free=["producer"], units=8)


def test_tile_as_often_as_the_input_says():
    graph = Builder()
    x = graph.input()
    token = graph.matmul(graph.weight(1, 1, 6), 6, 8)
    token = graph.node("Add", graph.weight(1, 1, 8, name="token"), token)
    tiled = graph.node("Tile", token, target(graph, size(graph, x, 0), 5, 1))
    hidden = graph.matmul(graph.input(("N", 5, 6), "tokens"), 6, 8, name="producer")
    hidden = graph.node("Add", hidden, tiled)
    check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)


def test_a_size_as_output_keeps_the_channels():
    graph = Builder()
    hidden = convolved(graph)
    count = size(graph, hidden, 1)
    proto = graph.model(graph.conv(hidden, 8, 3), count)
    check(proto, frozen={"producer": f"output '{count}' of the model"})


def test_a_shape_as_output_keeps_the_channels():
    graph = Builder()
    hidden = convolved(graph)
    shape = graph.node("Shape", hidden)
    check(graph.model(graph.conv(hidden, 8, 3), shape), frozen={"producer": "output 'shape_1' of the model"})


def test_heads_from_a_computed_width():
    """(N, L, C) → (N, L, heads, C / heads) with C / heads calculated by the graph."""
    graph = Builder()
    x = graph.input(("N", "L", 6))

    def heads(name):
        hidden = graph.matmul(x, 6, 8, name=name)
        width = graph.node("Div", size(graph, hidden, 2), graph.constant([2]))
        shape = target(graph, size(graph, hidden, 0), size(graph, hidden, 1), 2, width)
        return graph.node("Transpose", graph.node("Reshape", hidden, shape), perm=[0, 2, 1, 3])

    query, key = heads("query"), heads("key")
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
    pruned = check(graph.model(scores), free=["query", "key"], ratio=0.5)
    assert pruned.group("query").units == 4
