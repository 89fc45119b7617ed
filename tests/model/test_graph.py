"""The index of a graph: who makes a value, who reads it, and which constant stands behind it."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.model.graph import Constant, GraphIndex
from lbyl_onnx.model.reading import load

FLOAT = np.dtype(np.float32)


def index_of(graph, *outputs):
    return GraphIndex(load(graph.model(*outputs)))


def names(nodes):
    return [node.output[0] for node in nodes]


def conditional(graph, then, otherwise):
    """An If whose branches negate one tensor of the graph around it each."""
    branches = {
        f"{way}_branch": helper.make_graph(
            [helper.make_node("Neg", [name], [f"{way}_out"])], way, [], [onnx.ValueInfoProto(name=f"{way}_out")]
        )
        for way, name in (("then", then), ("else", otherwise))
    }
    return graph.node("If", graph.constant(np.array(True)), name="if", **branches)


# ---- makers and readers


def test_makers():
    graph = Builder()
    parts = graph.nodes("Split", [graph.input(("N", 4)), graph.constant([1, 3], name="sizes")], 2, axis=1)
    index = index_of(graph, graph.node("Relu", parts[1], name="last"))
    assert [index.maker(name).op_type for name in (*parts, "last")] == ["Split", "Split", "Relu"]
    assert [index.numbers[name] for name in (*parts, "last")] == [0, 0, 1]
    assert all(index.maker(name) is None for name in ("x", "sizes", "", "nowhere"))


def test_an_output_that_is_left_out_has_no_maker():
    node = helper.make_node("Dropout", ["x"], ["y", ""])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([node], "graph", values[:1], values[1:])
    index = GraphIndex(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    assert set(index.numbers) == {"y"} and not index.is_read("")


def test_readers_come_in_the_order_of_the_nodes_each_once():
    graph = Builder()
    hidden = graph.node("Relu", graph.input(("N", 4)), name="hidden")
    square = graph.node("Mul", hidden, hidden, name="square")
    last = graph.node("Add", square, hidden, name="last")
    index = index_of(graph, last)
    assert names(index.readers("hidden")) == ["square", "last"] and index.last_use("hidden") == 2
    assert index.reader("hidden") is None
    assert index.reader("square").output[0] == "last" and index.reader("x").output[0] == "hidden"


def test_a_node_that_reads_a_value_twice_is_no_single_reader():
    graph = Builder()
    hidden = graph.node("Relu", graph.input(("N", 4)), name="hidden")
    index = index_of(graph, graph.node("Mul", hidden, hidden, name="square"))
    assert names(index.readers("hidden")) == ["square"] and index.reader("hidden") is None


def test_outputs_of_the_graph_read():
    graph = Builder()
    first = graph.node("Relu", graph.input(("N", 4)), name="first")
    second = graph.node("Neg", first, name="second")
    index = index_of(graph, second, first)
    assert names(index.readers("first")) == ["second"] and index.reader("first") is None
    assert index.is_read("second") and index.readers("second") == [] and index.reader("second") is None
    assert index.last_use("first") == 1 and index.last_use("second") == -1


def test_subgraphs_read_what_they_capture():
    graph = Builder()
    x = graph.input(("N", 4))
    left, right = graph.node("Relu", x, name="left"), graph.node("Abs", x, name="right")
    both = graph.node("Exp", right, name="both")
    index = index_of(graph, conditional(graph, left, right), both)
    assert names(index.readers("left")) == ["if"] and names(index.readers("right")) == ["both", "if"]
    assert index.reader("left") is None and index.is_read("left") and index.last_use("left") == 3


def test_what_nothing_reads():
    graph = Builder()
    x = graph.input(("N", 4))
    graph.constant([1, 2], name="stray")
    graph.node("Neg", x, name="unread")
    index = index_of(graph, graph.node("Relu", x))
    for name in ("stray", "unread"):
        assert not index.is_read(name) and index.readers(name) == [] and index.reader(name) is None
        assert index.last_use(name) == -1


def test_the_index_shows_the_graph_as_it_was():
    graph = Builder()
    index = index_of(graph, graph.node("Neg", graph.node("Relu", graph.input(("N", 4)), name="hidden"), name="last"))
    del index.model.proto.graph.node[:]
    assert index.maker("last").op_type == "Neg" and index.reader("hidden").op_type == "Neg"


def test_what_lies_behind_a_value():
    graph = Builder()
    x, weight = graph.input(("N", 4)), graph.weight(4, 4, name="weight")
    graph.node("Relu", x, name="aside")
    hidden = graph.node("MatMul", x, graph.node("Identity", weight, name="same"), name="hidden")
    index = index_of(graph, conditional(graph, hidden, x), "aside")
    assert index.behind(["hidden"]) == {"hidden", "x", "same", "weight"}
    assert index.behind(["if"]) >= {"if", "hidden", "x", "same", "weight"} and "aside" not in index.behind(["if"])
    assert index.behind([]) == set()


# ---- constants


def behind(through=(), stored=np.float32, node=False, **attributes):
    """A MatMul with a weight of ones of type `stored`, "w", behind these operators, and the name that it reads."""
    graph = Builder()
    value = np.ones((4, 4), stored)
    if node:
        name = graph.node("Constant", value=numpy_helper.from_array(value), name="w")
    else:
        name = graph.constant(value, stored, name="w")
    for op in through:
        name = graph.node(op, name, **(attributes if op == "Cast" else {}))
    return graph, name


@pytest.mark.parametrize("node", [False, True], ids=["initializer", "Constant"])
@pytest.mark.parametrize(
    ("through", "stored"),
    [
        ((), np.float32),
        (("Identity",), np.float32),
        (("Identity", "Identity"), np.float32),
        (("Cast",), np.float16),
        (("Cast",), np.float64),
        (("Cast",), np.int8),
        (("Identity", "Cast", "Identity"), np.float16),
    ],
)
def test_a_constant_behind_operators_that_pass_it_on(through, stored, node):
    """It is known by the name that it is stored under and the type that its reader sees."""
    graph, name = behind(through, stored, node, to=TensorProto.FLOAT)
    index = index_of(graph, graph.node("MatMul", graph.input(("N", 4)), name))
    found = index.constant(name)
    assert found == Constant("w", FLOAT, exclusive=True)
    value = found.read(index.model)
    assert value.dtype == np.float32 and value.shape == (4, 4) and (value == 1).all()


def test_what_is_written_keeps_the_stored_type():
    graph, name = behind(["Cast"], np.float16, to=TensorProto.FLOAT)
    index = index_of(graph, graph.node("MatMul", graph.input(("N", 4)), name))
    changed = index.model.copy()
    found = index.constant(name)
    found.write(changed, np.full((4, 2), 0.1))
    assert changed.weights["w"].dtype == np.float16 and changed.weights["w"].shape == (4, 2)
    np.testing.assert_array_equal(found.read(changed), np.full((4, 2), np.float16(0.1), np.float32))
    assert (found.read(index.model) == 1).all()
    onnx.checker.check_model(changed.to_proto())


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_is_written_as_such(transposed):
    graph = Builder()
    stored = graph.constant(np.ones((4, 4)), ml_dtypes.bfloat16, name="w")
    name = graph.node("Cast", stored, to=TensorProto.FLOAT)
    index = index_of(graph, graph.node("MatMul", graph.input(("N", 4)), name))
    value = np.arange(16, dtype=np.float64).reshape(4, 4)
    found = index.constant(name)
    found.write(index.model, value.T if transposed else value)
    assert index.model.weights["w"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.read(index.model), value.T if transposed else value)


def test_values_that_are_no_constants():
    graph = Builder()
    x = graph.input(("N", 4))
    same = graph.node("Identity", x, name="same")
    computed = graph.node("Neg", graph.weight(4, 4), name="computed")
    text = graph.node("Cast", graph.constant(1.0, name="number"), to=TensorProto.STRING, name="text")
    number = graph.node("Cast", text, to=TensorProto.FLOAT, name="parsed")
    index = index_of(graph, graph.node("Add", graph.node("MatMul", same, computed), number))
    assert [index.constant(name) for name in ("x", same, computed, text, number, "nowhere")] == [None] * 6


def test_a_second_cast_may_round_and_is_a_computation():
    graph = Builder()
    stored = graph.constant(np.full((4, 4), 2.7), name="w")
    whole = graph.node("Cast", stored, to=TensorProto.INT32, name="whole")
    back = graph.node("Cast", whole, to=TensorProto.FLOAT, name="back")
    index = index_of(graph, graph.node("MatMul", graph.input(("N", 4)), back))
    assert index.constant(back) is None and (index.constant(whole).read(index.model) == 2).all()


def test_a_constant_with_one_reader_at_every_step_is_exclusive():
    """A second reader anywhere on the way, a subgraph and an output of the graph all end that."""

    def found(use):
        graph, name = behind(["Identity", "Identity"])
        x = graph.input(("N", 4))
        index = index_of(graph, graph.node("MatMul", x, name), *use(graph, name))
        assert index.constant(name).name == "w"
        return index.constant(name).exclusive

    assert found(lambda graph, name: [])
    assert not found(lambda graph, name: [graph.node("Neg", name)])
    assert not found(lambda graph, name: [graph.node("Neg", "w")])
    assert not found(lambda graph, name: [graph.node("Neg", "identity_0")])
    assert not found(lambda graph, name: [name])
    assert not found(lambda graph, name: ["w"])
    assert not found(lambda graph, name: [conditional(graph, name, "x")])
    assert not found(lambda graph, name: [conditional(graph, "x", "w")])


def test_a_constant_that_one_node_reads_twice_is_shared():
    graph = Builder()
    weight = graph.weight(4, 4, name="w")
    index = index_of(graph, graph.node("MatMul", weight, weight))
    assert index.constant("w") == Constant("w", FLOAT, exclusive=False) and index.own_constant("w") is None


def test_only_floating_constants_with_one_reader_may_be_changed():
    graph = Builder()
    x = graph.input(("N", 4))
    own = graph.node("Identity", graph.weight(4, 4, name="own"))
    shared = graph.weight(4, name="shared")
    hidden = graph.node("Add", graph.node("Add", graph.node("MatMul", x, own), shared), shared)
    whole = graph.node("Cast", graph.constant([[1, 2, 3, 4]], name="integers"), to=TensorProto.FLOAT)
    index = index_of(graph, graph.node("Reshape", graph.node("Mul", hidden, whole), graph.constant([-1], name="shape")))
    assert index.own_constant(own) == Constant("own", FLOAT, exclusive=True)
    assert [index.own_constant(name) for name in (shared, whole, "shape", "x")] == [None] * 4
    assert index.constant(whole) == Constant("integers", FLOAT, exclusive=True)


def test_parameters_are_what_was_trained():
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 4)), 4, 4)
    quantised = graph.constant(np.ones((4, 4)), np.int8, name="quantised")
    scale = graph.constant(0.5, name="scale")
    hidden = graph.node("MatMul", hidden, graph.node("DequantizeLinear", quantised, scale))
    index = index_of(graph, graph.node("Reshape", hidden, graph.constant([-1], name="shape")))
    assert index.parameters() == ["constant_0", "quantised", "scale"]
