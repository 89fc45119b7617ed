import numpy as np
import pytest
from graphs import Builder, between, check


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_makes_and_takes_channels_in_any_number_of_dimensions(rank):
    pruned = check(between(lambda graph, x: x, space=(5, 3, 4)[:rank]), free=["producer"], units=8)
    assert [port.name for port in pruned.group("producer").consumers] == ["consumer"]
    assert not pruned.group("producer").coupled


def test_conv_without_bias():
    check(
        between(lambda graph, x: graph.conv(x, 8, 6, bias=False, name="inner"), after=6),
        free=["producer", "inner"],
    )


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv_passes_channels_through(multiplier):
    def depthwise(graph, x):
        return graph.conv(x, 8, 8 * multiplier, group=8, name="depthwise")

    pruned = check(between(depthwise, after=8 * multiplier), free=["producer"], units=8)
    node = next(node for node in pruned.model.proto.graph.node if node.name == "depthwise")
    assert next(item.i for item in node.attribute if item.name == "group") == 4


def test_small_groups_go_whole():
    def grouped(graph, x):
        return graph.conv(x, 16, 24, group=8, name="grouped")

    pruned = check(between(grouped, channels=16, after=24), free=["producer"], units=8)
    weight = next(node for node in pruned.model.proto.graph.node if node.name == "grouped").input[1]
    assert pruned.shape(weight) == (12, 2, 3, 3)


def test_large_groups_lose_the_same_number_each():
    def grouped(graph, x):
        return graph.conv(x, 16, 12, group=2, name="grouped")

    pruned = check(between(grouped, channels=16, after=12), free=["producer", "grouped"], units=8)
    weight = next(node for node in pruned.model.proto.graph.node if node.name == "grouped").input[1]
    assert pruned.shape(weight) == (6, 4, 3, 3)
    assert pruned.group("producer").consumers[0].groups == 2


def test_large_groups_of_the_input_still_make_channels():
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 8, 5, 3)), 8, 12, group=2, name="producer")
    check(graph.model(graph.conv(hidden, 12, 4, name="consumer")), free=["producer"], units=6)


def test_depthwise_of_the_input_stays():
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 4, 5, 3)), 4, 4, group=4, name="depthwise")
    pruned = check(graph.model(graph.conv(hidden, 4, 4, name="consumer")), frozen={"consumer": "output"})
    assert len(pruned.analysis.groups) == 1


def transposed(graph, x, inputs, filters, group=1):
    weights = graph.weight(inputs, filters // group, 3, 3), graph.weight(filters)
    return graph.node("ConvTranspose", x, *weights, group=group, strides=[2, 2], name="transposed")


def test_conv_transpose():
    check(
        between(lambda graph, x: transposed(graph, x, 8, 6), after=6),
        free=["producer", "transposed"],
        units=8,
    )


def test_conv_transpose_with_small_groups():
    middle = between(lambda graph, x: transposed(graph, x, 8, 12, group=4), after=12)
    check(middle, free=["producer"], units=4)


def test_conv_transpose_with_large_groups():
    middle = between(lambda graph, x: transposed(graph, x, 16, 12, group=2), channels=16, after=12)
    pruned = check(middle, free=["producer", "transposed"], units=8)
    assert pruned.group("transposed").units == 6


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv_transpose(multiplier):
    width = 8 * multiplier
    check(
        between(lambda graph, x: transposed(graph, x, 8, width, group=8), after=width),
        free=["producer"],
        units=8,
    )


@pytest.mark.parametrize("bias", [(), (1,), (8,), (1, 8), (2, 8), (2, 1)])
@pytest.mark.parametrize("transposed_weight", [0, 1])
def test_gemm_with_every_shape_of_bias(bias, transposed_weight):
    graph = Builder()
    weights = [graph.weight(8, 6) if transposed_weight else graph.weight(6, 8), graph.weight(*bias)]
    x = graph.input((2, 6))
    hidden = graph.node("Gemm", x, *weights, transB=transposed_weight, alpha=0.5, beta=2.0, name="producer")
    check(graph.model(graph.gemm(hidden, 8, 3)), free=["producer"], units=8)


def test_gemm_with_transposed_activation():
    graph = Builder()
    hidden = graph.gemm(graph.input((2, 6)), 6, 8, name="producer")
    turned = graph.node("Transpose", hidden, perm=[1, 0])
    check(
        graph.model(graph.node("Gemm", turned, graph.weight(8, 3), transA=1)),
        free=["producer"],
        units=8,
    )


def test_gemm_without_bias():
    graph = Builder()
    hidden = graph.node("Gemm", graph.input(("N", 6)), graph.weight(6, 8), name="producer")
    check(graph.model(graph.gemm(hidden, 8, 3)), free=["producer"])


@pytest.mark.parametrize("bias", [(8,), (1, 1, 8), (5, 8)])
def test_matmul_with_weight_at_the_right_and_add(bias):
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node("Relu", graph.node("Add", hidden, graph.weight(*bias)))
    pruned = check(graph.model(graph.matmul(hidden, 8, 3, name="consumer")), free=["producer"], units=8)
    assert not pruned.group("producer").coupled


def test_matmul_with_weight_at_the_left():
    graph = Builder()
    hidden = graph.node("MatMul", graph.weight(8, 6), graph.input(("N", 6, 5)), name="producer")
    check(graph.model(graph.node("MatMul", graph.weight(3, 8), hidden)), free=["producer"], units=8)


def test_matmul_with_batched_weight():
    graph = Builder()
    hidden = graph.node("MatMul", graph.input((4, 5, 6)), graph.weight(4, 6, 8), name="producer")
    check(graph.model(graph.node("MatMul", hidden, graph.weight(4, 8, 3))), free=["producer"], units=8)


def test_matmul_broadcasts_leading_axes():
    graph = Builder()
    hidden = graph.node("MatMul", graph.input(("N", 1, 5, 6)), graph.weight(4, 6, 8), name="producer")
    check(graph.model(graph.node("MatMul", hidden, graph.weight(4, 8, 3))), free=["producer"], units=8)


def test_matmul_of_a_vector_stays():
    graph = Builder()
    hidden = graph.gemm(graph.input(("N", 6)), 6, 8, name="producer")
    check(graph.model(graph.node("MatMul", hidden, graph.weight(8))), frozen={"producer": "multiplies a vector"})


def heads(graph, x, name, count=2, size=4):
    hidden = graph.matmul(x, 6, count * size, name=name)
    hidden = graph.node("Reshape", hidden, graph.constant([0, 0, count, size]))
    return graph.node("Transpose", hidden, perm=[0, 2, 1, 3])


def test_attention_shares_channels_of_queries_and_keys():
    graph = Builder()
    x = graph.input(("N", 5, 6))
    query, key, value = (heads(graph, x, name) for name in ("query", "key", "value"))
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
    context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    context = graph.node("Transpose", context, perm=[0, 2, 1, 3])
    joined = graph.node("Reshape", context, graph.constant([0, 0, -1]))
    pruned = check(graph.model(graph.matmul(joined, 8, 6)), free=["query", "value"], ratio=0.5)
    group = pruned.group("query")
    assert group is pruned.group("key") and group.coupled and group.units == 4
    assert pruned.group("value").units == 4 and pruned.group("value") is not group


def test_einsum_with_a_weight():
    graph = Builder()
    hidden = graph.node("Einsum", graph.input(("N", 5, 6)), graph.weight(6, 8), equation="nli,io->nlo", name="producer")
    consumed = graph.node("Einsum", hidden, graph.weight(8, 3), equation="nlo,op->nlp")
    pruned = check(graph.model(consumed), free=["producer"], units=8)
    assert len(pruned.group("producer").consumers) == 1


def test_einsum_of_two_activations():
    graph = Builder()
    x = graph.input(("N", 5, 6))
    left, right = (graph.matmul(x, 6, 8, name=name) for name in ("left", "right"))
    check(
        graph.model(graph.node("Einsum", left, right, equation="nic,njc->nij")),
        free=["left", "right"],
        units=8,
    )


@pytest.mark.parametrize("equation", ["...i,io->...o", "n...i, io -> n...o", "nli,io"])
def test_einsum_with_an_ellipsis_or_an_implied_output(equation):
    graph = Builder()
    hidden = graph.node("Einsum", graph.input(("N", 5, 6)), graph.weight(6, 8), equation=equation, name="producer")
    check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)


def test_einsum_that_broadcasts_leading_axes():
    graph = Builder()
    x = graph.input(("N", 5, 6))
    left, right = (graph.matmul(x, 6, 8, name=name) for name in ("left", "right"))
    right = graph.node("ReduceMax", right, axes=[1], keepdims=1)
    check(graph.model(graph.node("Einsum", left, right, equation="...c,...c->...")), free=["left", "right"], units=8)


@pytest.mark.parametrize(("equation", "reason"), [("nlc->nl", "sums over them"), ("...c->...", "sums over them")])
def test_einsum_that_stays(equation, reason):
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    check(graph.model(graph.node("Einsum", hidden, equation=equation)), frozen={"producer": reason})


@pytest.mark.parametrize(
    ("op", "zero_points"),
    [("ConvInteger", None), ("ConvInteger", 4), ("MatMulInteger", None), ("MatMulInteger", [1, 2, 3, 4])],
)
def test_integer_weights_take_channels(op, zero_points):
    graph = Builder()
    if op == "ConvInteger":
        hidden, shape = graph.conv(graph.input(), 3, 8, name="producer"), (4, 8, 3, 3)
    else:
        hidden, shape = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer"), (8, 4)
    hidden, _, zero = graph.nodes("DynamicQuantizeLinear", [graph.node("Relu", hidden)], 3)
    weight = graph.constant(graph.rng.integers(0, 9, shape), np.uint8)
    extra = [zero, graph.constant(zero_points, np.uint8)] if zero_points else []
    check(graph.model(graph.node(op, hidden, weight, *extra, name="consumer")), free=["producer"], units=8)


def test_a_convolution_over_channels_of_another_stays():
    def turned(graph, x):
        return graph.node("Transpose", x, perm=[0, 2, 1, 3])

    check(between(turned, after=6), frozen={"producer": "slides over them"})
