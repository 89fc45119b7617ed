"""Which weights make and take a group's channels; constants in every form; what keeps channels."""

import numpy as np
import pytest
from graphs import Builder, between, check, prune, without_consumed
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.channels.macs import node_macs
from lbyl_onnx.model.graph import Constant
from lbyl_onnx.model.tensors import is_floating


def test_a_chain_of_two_convolutions():
    pruned = prune(between(lambda graph, x: graph.node("Relu", graph.batch_norm(x, 8))))
    group, last = pruned.analysis.groups
    assert (group.name, group.units, group.coupled, group.frozen_reason) == ("producer", 8, False, None)
    (producer,), (consumer,) = group.producers, group.consumers
    assert (producer.op, producer.axis, producer.units.tolist()) == ("Conv", 0, list(range(8)))
    assert (consumer.name, consumer.axis, consumer.units.tolist()) == ("consumer", 1, list(range(8)))
    filters, bias, norm, consumed = 8 * 3 * 9, 8, 4 * 8, 4 * 8 * 9
    assert group.parameters == filters + bias + norm + consumed
    assert group.macs == 18 * (filters + consumed)
    assert last.frozen_reason == "output 'consumer' of the model" and not last.free.any()


def test_units_of_other_groups_are_marked():
    graph = Builder()
    x = graph.input()
    parts = [graph.conv(x, 3, 4, name="first"), graph.conv(x, 3, 2, name="second")]
    proto = graph.model(graph.conv(graph.node("Concat", *parts, axis=1), 6, 4, name="consumer"))
    pruned = prune(proto)
    assert pruned.group("first").consumers[0].units.tolist() == [0, 1, 2, 3, -1, -1]
    assert pruned.group("second").consumers[0].units.tolist() == [-1, -1, -1, -1, 0, 1]


def test_a_residual_stream_is_one_coupled_group():
    graph = Builder()
    stem = graph.conv(graph.input(), 3, 8, name="stem")
    inner = graph.node("Relu", graph.conv(stem, 8, 6, name="inner"))
    joined = graph.node("Add", stem, graph.conv(inner, 6, 8, name="outer"))
    pruned = check(graph.model(graph.conv(joined, 8, 4)), free=["stem", "inner", "outer"], units=8)
    assert pruned.group("stem") is pruned.group("outer") and pruned.group("stem").coupled
    assert not pruned.group("inner").coupled
    chains = prune(graph.model(graph.conv(joined, 8, 4)), scope="chains")
    assert chains.kept[chains.group("stem").classes].all()
    assert not chains.kept[chains.group("inner").classes].all()


def test_a_single_unit_stays():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 1, name="producer")
    check(graph.model(graph.conv(hidden, 1, 4)), frozen={"producer": "has a single unit"})


def test_several_outputs_and_consumers():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    outputs = graph.conv(hidden, 8, 4, name="first"), graph.conv(hidden, 8, 2, name="second")
    pruned = check(graph.model(*outputs), free=["producer"], units=8)
    assert [port.name for port in pruned.group("producer").consumers] == ["first", "second"]


def test_an_output_in_the_middle_keeps_its_channels():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    last = graph.conv(graph.conv(hidden, 8, 6, name="free"), 6, 4)
    check(graph.model(last, hidden), free=["free"], frozen={"producer": "output 'relu_1' of the model"})


@pytest.mark.parametrize(("op", "domain"), [("GatherElements", ""), ("Trilu", ""), ("Inverse", "com.microsoft")])
def test_an_operator_without_a_rule_keeps_channels(op, domain):
    graph = Builder()
    hidden = graph.matmul(graph.input((8, 6)), 6, 8, name="producer")
    extra = [graph.constant(np.zeros((8, 8), np.int64))] if op == "GatherElements" else []
    hidden = graph.node(op, hidden, *extra, domain=domain, name="odd")
    check(graph.model(graph.matmul(hidden, 8, 3)), frozen={"producer": f"operator {op} 'odd' has no rule"})


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_what_is_no_tensor_keeps_channels(kind):
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    if kind == "sequence":
        packed = graph.node("SplitToSequence", hidden, axis=1, keepdims=1)
        hidden = graph.node("SequenceAt", packed, graph.constant(2))
    else:
        hidden = graph.node("OptionalGetElement", graph.node("Optional", hidden))
    hidden = graph.conv(hidden, 1 if kind == "sequence" else 8, 6, name="free")
    check(graph.model(graph.conv(hidden, 6, 4)), free=["free"], frozen={"producer": "has no rule"})


def test_a_loop_keeps_what_it_carries():
    def info(name, kind, shape=()):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Relu", ["value"], ["next"])],
        "body",
        [info("i", TensorProto.INT64), info("go", TensorProto.BOOL), info("value", TensorProto.FLOAT, None)],
        [info("again", TensorProto.BOOL), info("next", TensorProto.FLOAT, None)],
    )
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    hidden = graph.node("Loop", graph.constant(3), graph.constant(np.array(True)), hidden, body=body, name="loop")
    hidden = graph.conv(hidden, 8, 6, name="free")
    proto = graph.model(graph.conv(hidden, 6, 4))
    check(proto, free=["free"], frozen={"producer": "operator Loop 'loop' has no rule"})


def branch(nodes, output):
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, 1, None)])


def conditional(graph, **names):
    """An If whose branches read tensors of the graph around it."""
    condition = graph.constant(np.array(True))
    branches = {
        f"{way}_branch": branch([helper.make_node("Relu", [name], [f"{way}_out"])], f"{way}_out")
        for way, name in names.items()
    }
    return graph.node("If", condition, name="if", **branches)


def test_a_tensor_captured_by_a_subgraph_keeps_its_channels():
    graph = Builder()
    x = graph.input()
    left, right = graph.conv(x, 3, 8, name="left"), graph.conv(x, 3, 8, name="right")
    hidden = graph.conv(conditional(graph, then=left, **{"else": right}), 8, 6, name="free")
    reason = "If 'if' reads them in a subgraph"
    check(graph.model(graph.conv(hidden, 6, 4)), free=["free"], frozen={"left": reason, "right": reason})


def test_a_weight_captured_by_a_subgraph_keeps_its_channels():
    graph = Builder()
    scale = graph.weight(1, 8, 1, 1, name="scale")
    hidden = graph.node("Mul", graph.conv(graph.input(), 3, 8, name="producer"), scale)
    outer = conditional(graph, then="scale", **{"else": "scale"})
    proto = graph.model(graph.conv(hidden, 8, 4), outer)
    check(proto, frozen={"producer": "If 'if' reads them in a subgraph"})


def test_a_weight_that_two_convolutions_share():
    graph = Builder()
    x, y = graph.input(), graph.input(name="y")
    weight, second = graph.weight(8, 3, 3, 3), graph.weight(4, 8, 3, 3)
    towers = []
    for side, image in (("left", x), ("right", y)):
        hidden = graph.node("Relu", graph.node("Conv", image, weight, pads=[1] * 4, name=side))
        towers.append(graph.node("Conv", hidden, second))
    pruned = check(graph.model(*towers), free=["left", "right"], units=8)
    group = pruned.group("left")
    assert group is pruned.group("right") and group.coupled
    assert not any(port.weight.exclusive for port in (*group.producers, *group.consumers))


def test_a_weight_applied_twice_in_a_row():
    """Its inputs and its outputs become the same channels only if something else says so."""
    graph = Builder()
    square = graph.weight(8, 8)
    hidden = graph.matmul(graph.input(("N", 6)), 6, 8, name="first")
    hidden = graph.node("Relu", graph.node("MatMul", hidden, square, name="second"))
    hidden = graph.node("Relu", graph.node("MatMul", hidden, square, name="third"))
    pruned = check(graph.model(graph.matmul(hidden, 8, 3)), free=["first", "second", "third"], units=8)
    assert pruned.shape(square) == (4, 4)


def test_an_embedding_that_is_also_the_last_layer():
    graph = Builder()
    tokens = graph.input(("N", 5), "tokens", TensorProto.INT64)
    table = graph.weight(10, 8, name="table")
    hidden = graph.node("Gather", table, tokens, name="embedding")
    hidden = graph.node("MatMul", hidden, graph.node("Transpose", table, perm=[1, 0]), name="logits")
    pruned = check(graph.model(hidden), free=["embedding"], units=8)
    assert pruned.shape("table") == (10, 4)


def test_initializers_listed_as_inputs():
    graph = Builder(opset=9, ir_version=3)
    hidden = graph.node("Relu", graph.batch_norm(graph.conv(graph.input(), 3, 8, name="producer"), 8))
    hidden = graph.node("Reshape", hidden, graph.constant([-1, 144]))
    proto = graph.model(graph.gemm(hidden, 144, 4))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    pruned = check(proto, free=["producer"], units=8)
    declared = {info.name: info for info in pruned.model.proto.graph.input}
    for tensor in pruned.model.proto.graph.initializer:
        shape = [dim.dim_value for dim in declared[tensor.name].type.tensor_type.shape.dim]
        assert shape == list(tensor.dims)


def as_constant_nodes(proto):
    """The same graph with every initializer a Constant node."""
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in proto.graph.initializer]
    del proto.graph.initializer[:]
    nodes.extend(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def test_constants_as_nodes():
    def middle(graph, x):
        first, second = graph.nodes("Split", [graph.batch_norm(x, 8), graph.constant([5, 3])], 2, axis=1)
        return graph.node("Concat", second, first, axis=1)

    pruned = check(as_constant_nodes(between(middle)), free=["producer"], units=8)
    assert pruned.group("producer").consumers[0].weight is not None


@pytest.mark.parametrize("op", ["Identity", "Transpose", "Reshape", "Mul", "Cast"])
def test_a_weight_that_is_computed_from_constants(op):
    graph = Builder()
    if op == "Transpose":
        weight = graph.node(op, graph.weight(3, 3, 3, 8), perm=[3, 2, 0, 1])
    elif op == "Reshape":
        weight = graph.node(op, graph.weight(8, 27), graph.constant([8, 3, 3, 3]))
    elif op == "Mul":
        weight = graph.node(op, graph.weight(8, 3, 3, 3), graph.positive(8, 1, 1, 1))
    elif op == "Cast":
        stored = graph.constant(graph.rng.standard_normal((8, 3, 3, 3)), np.float64, name="filters")
        weight = graph.node(op, stored, to=TensorProto.FLOAT)
    else:
        weight = graph.node(op, graph.weight(8, 3, 3, 3, name="filters"))
    hidden = graph.node("Relu", graph.node("Conv", graph.input(), weight, name="producer"))
    pruned = check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)
    found = pruned.group("producer").producers[0].weight
    expected = Constant("filters", np.dtype(np.float32), exclusive=True) if op in ("Identity", "Cast") else None
    assert found == expected


def test_a_product_of_two_weights_is_a_weight():
    graph = Builder()
    weight = graph.node("MatMul", graph.weight(6, 5), graph.weight(5, 8, name="right"))
    hidden = graph.node("MatMul", graph.input(("N", 6)), weight, name="producer")
    pruned = check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)
    assert pruned.shape("right") == (5, 4)


def test_a_weight_that_is_normalised_in_the_graph():
    graph = Builder()
    stored = graph.weight(8, 3, 3, 3, name="direction")
    norm = graph.node("ReduceL2", stored, axes=[1, 2, 3])
    weight = graph.node("Mul", graph.node("Div", stored, norm), graph.positive(8, 1, 1, 1))
    hidden = graph.node("Conv", graph.input(), weight, name="producer")
    proto = graph.model(graph.conv(hidden, 8, 4))
    pruned = check(proto, free=["producer"], units=8, reference=without_consumed)
    assert pruned.shape("direction") == (4, 3, 3, 3)


def test_a_weight_that_is_an_output_stays():
    graph = Builder()
    weight = graph.weight(8, 3, 3, 3, name="filters")
    hidden = graph.node("Conv", graph.input(), weight, name="producer")
    check(graph.model(graph.conv(hidden, 8, 4), weight), frozen={"producer": "output 'filters' of the model"})


def test_the_long_name_of_the_default_domain():
    def middle(graph, x):
        first, second = graph.nodes("Split", [x, graph.constant([5, 3])], 2, axis=1)
        return graph.node("Concat", second, first, axis=1)

    proto = between(middle)
    proto.opset_import[0].domain = "ai.onnx"
    check(proto, free=["producer"], units=8)


def test_a_node_without_a_name_is_called_by_its_output():
    proto = between(lambda graph, x: x)
    for node in proto.graph.node:
        node.name = ""
    assert prune(proto).group("producer").name == "producer"


def macs(op, inputs, output, **attributes):
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    return node_macs(node, {**inputs, "y": output})


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "expected"),
    [
        ("Conv", {"x": (2, 3, 6, 6), "w": (8, 3, 3, 3)}, (2, 8, 4, 4), {}, 2 * 8 * 16 * 27),
        ("Conv", {"x": (1, 8, 6, 6), "w": (8, 1, 3, 3)}, (1, 8, 6, 6), {"group": 8}, 8 * 36 * 9),
        ("ConvTranspose", {"x": (1, 8, 3, 3), "w": (8, 4, 2, 2)}, (1, 4, 6, 6), {}, 8 * 9 * 16),
        ("Gemm", {"x": (2, 6), "w": (6, 8)}, (2, 8), {}, 2 * 6 * 8),
        ("Gemm", {"x": (6, 2), "w": (6, 8)}, (2, 8), {"transA": 1}, 2 * 6 * 8),
        ("MatMul", {"x": (2, 5, 6), "w": (6, 8)}, (2, 5, 8), {}, 2 * 5 * 6 * 8),
        ("Relu", {"x": (2, 5)}, (2, 5), {}, 0),
    ],
)
def test_multiply_accumulates(op, inputs, output, attributes, expected):
    assert macs(op, inputs, output, **attributes) == expected


def test_floating_types():
    bfloat16 = numpy_helper.to_array(helper.make_tensor("w", TensorProto.BFLOAT16, [1], [1.0]))
    assert is_floating(bfloat16) and is_floating(np.zeros(1, np.float16))
    assert not is_floating(np.zeros(1, np.int64)) and not is_floating(np.zeros(1, bool))
