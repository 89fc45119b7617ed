import pytest
from graphs import Builder, between, check, without_consumed
from onnx import TensorProto

from lbyl_onnx.channels.rules.reduction import POOLS, REDUCTIONS

KERNELS = {op: {"kernel_shape": [2, 2]} for op in ("AveragePool", "LpPool", "MaxPool")}


@pytest.mark.parametrize("op", POOLS)
def test_pools_pass_channels(op):
    check(between(lambda graph, x: graph.node(op, x, **KERNELS.get(op, {}))), free=["producer"], units=8)


def test_indices_of_a_pool_keep_channels():
    def middle(graph, x):
        hidden, places = graph.nodes("MaxPool", [x], 2, kernel_shape=[2, 2])
        return graph.node("Mul", hidden, graph.node("Cast", places, to=TensorProto.FLOAT))

    check(between(middle), frozen={"producer": "counts them in its indices"})


def test_pool_over_channels_keeps_them():
    def middle(graph, x):
        return graph.node("MaxPool", graph.node("Transpose", x, perm=[0, 2, 1, 3]), kernel_shape=[3, 3], pads=[1] * 4)

    check(between(middle, after=6), frozen={"producer": "pools over them"})


def reduced(graph, x, op, axes, **attributes):
    if graph.opset >= (13 if op == "ReduceSum" else 18):
        return graph.node(op, x, graph.constant(axes), **attributes)
    return graph.node(op, x, axes=axes, **attributes)


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_over_space_pass_channels(op, opset):
    def middle(graph, x):
        return reduced(graph, graph.node("Abs", x), op, [2, -1], keepdims=1)

    check(between(middle, opset=opset), free=["producer"], units=8, reference=without_consumed)


@pytest.mark.parametrize("opset", [11, 18])
def test_reduction_that_drops_space(opset):
    graph = Builder(opset)
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    pooled = reduced(graph, hidden, "ReduceMean", [2, 3], keepdims=0)
    check(graph.model(graph.gemm(pooled, 8, 3)), free=["producer"], units=8)


@pytest.mark.parametrize("axes", [[1], [-3], [1, 2, 3]])
def test_reductions_over_channels_keep_them(axes):
    def middle(graph, x):
        return graph.node("Sub", x, reduced(graph, x, "ReduceMean", axes, keepdims=1))

    check(between(middle), frozen={"producer": r"ReduceMean '\w+' reduces over them"})


def test_reductions_without_axes_keep_everything():
    def middle(graph, x):
        return graph.node("Sub", x, graph.node("ReduceMax", x))

    check(between(middle), frozen={"producer": "reduces over them"})


def test_reduction_over_nothing():
    def middle(graph, x):
        return graph.node("ReduceSum", x, graph.constant([], int), noop_with_empty_axes=1)

    check(between(middle, opset=18), free=["producer"], units=8)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(("axis", "frozen"), [(2, False), (1, True)])
def test_the_place_of_an_extreme(op, axis, frozen):
    def middle(graph, x):
        places = graph.node(op, x, axis=axis, keepdims=1)
        return graph.node("Add", x, graph.node("Cast", places, to=TensorProto.FLOAT))

    state = {"frozen": {"producer": "reduces over them"}} if frozen else {"free": ["producer"]}
    check(between(middle), **state)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("opset", "axis", "stays"), [(13, 1, True), (13, 2, False), (13, -1, False), (11, 1, True), (11, 2, False)]
)
def test_softmax(op, opset, axis, stays):
    """Before opset 13 every axis from `axis` on is normalised, after that the one."""
    state = {"frozen": {"producer": "normalises over them"}} if stays else {"free": ["producer"]}
    check(between(lambda graph, x: graph.node(op, x, axis=axis), opset=opset), **state)


def test_softmax_of_the_last_axis_before_opset_13():
    graph = Builder(opset=11)
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node("Softmax", hidden)
    check(graph.model(graph.matmul(hidden, 8, 3)), frozen={"producer": "normalises over them"})


def test_layer_normalization_keeps_what_it_normalises():
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node("LayerNormalization", hidden, graph.positive(8), graph.weight(8))
    hidden = graph.matmul(hidden, 8, 6, name="free")
    check(
        graph.model(graph.matmul(hidden, 6, 3)),
        free=["free"],
        frozen={"producer": "LayerNormalization '\\w+' normalises over them"},
    )


def test_what_is_normalised_is_one_stream_with_one_reason():
    graph = Builder()
    stream = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="first")
    stream = graph.node("LayerNormalization", stream, graph.positive(8), axis=-1, name="norm")
    stream = graph.node("Add", stream, graph.matmul(stream, 8, 8, name="second"))
    reason = "LayerNormalization 'norm' normalises over them"
    pruned = check(graph.model(graph.matmul(stream, 8, 3)), frozen={"first": reason, "second": reason})
    assert pruned.group("first") is pruned.group("second")


def test_layer_normalization_of_space_passes_channels():
    def middle(graph, x):
        return graph.node("LayerNormalization", x, graph.positive(6, 3), axis=2)

    check(between(middle), free=["producer"], units=8)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LRN", {"size": 3}),
        ("LpNormalization", {"axis": 1}),
        ("MeanVarianceNormalization", {"axes": [1, 2, 3]}),
    ],
)
def test_other_normalisations_over_channels_keep_them(op, attributes):
    check(between(lambda graph, x: graph.node(op, x, **attributes)), frozen={"producer": "normalises over them"})


@pytest.mark.parametrize(
    ("op", "attributes"), [("LpNormalization", {"axis": 3}), ("MeanVarianceNormalization", {"axes": [2, 3]})]
)
def test_other_normalisations_over_space_pass_channels(op, attributes):
    proto = between(lambda graph, x: graph.node(op, x, **attributes))
    check(proto, free=["producer"], units=8, reference=without_consumed)


@pytest.mark.parametrize(("axis", "stays"), [(1, True), (3, False)])
def test_running_sums(axis, stays):
    state = {"frozen": {"producer": "normalises over them"}} if stays else {"free": ["producer"]}
    check(between(lambda graph, x: graph.node("CumSum", x, graph.constant(axis))), **state)


@pytest.mark.parametrize(("axis", "stays"), [(1, True), (3, False)])
def test_largest_values(axis, stays):
    def middle(graph, x):
        values, places = graph.nodes("TopK", [x, graph.constant([2])], 2, axis=axis)
        return graph.node("Add", values, graph.node("Cast", places, to=TensorProto.FLOAT))

    state = {"frozen": {"producer": "normalises over them"}} if stays else {"free": ["producer"]}
    check(between(middle, after=2 if stays else 8), **state)


def test_group_normalization_loses_whole_groups():
    def middle(graph, x):
        inputs = [x, graph.positive(16), graph.weight(16)]
        return graph.node("GroupNormalization", *inputs, num_groups=4, name="norm")

    pruned = check(between(middle, opset=21, channels=16), free=["producer"], units=4, ratio=0.5)
    node = next(node for node in pruned.model.proto.graph.node if node.name == "norm")
    assert next(item.i for item in node.attribute if item.name == "num_groups") == 2


def test_group_normalization_of_every_channel_alone():
    def middle(graph, x):
        return graph.node("GroupNormalization", x, graph.positive(8), graph.weight(8), num_groups=8)

    check(between(middle, opset=21), free=["producer"], units=8)


def test_group_normalization_of_the_input():
    graph = Builder(opset=21)
    x = graph.input(("N", 8, 6, 3))
    hidden = graph.node("GroupNormalization", x, graph.positive(8), graph.weight(8), num_groups=2)
    hidden = graph.conv(hidden, 8, 6, name="producer")
    check(graph.model(graph.conv(hidden, 6, 4)), free=["producer"], units=6)
