"""Facts of tensors as onnxruntime reports them: shapes, which sizes follow the input, values of size arithmetic."""

import numpy as np
import pytest
from graphs import Builder
from onnx import TensorProto, helper
from uniform import compress

from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.channels.probe import MAX_VALUE_SIZE, probe
from lbyl_onnx.errors import ModelError, NothingToRemove, UsageError
from lbyl_onnx.model.reading import load


def facts(graph, *outputs):
    return probe(load(graph.model(*outputs)))


def convolved(shape, **attributes):
    graph = Builder()
    return graph, graph.conv(graph.input(shape), 3, 4, name="hidden", **attributes)


def test_a_static_model():
    found = facts(*convolved((5, 3, 6, 3)))
    assert found.batch == 1
    assert found.tensors["x"].shape == (5, 3, 6, 3)
    assert found.tensors["hidden"].shape == (5, 4, 6, 3)
    assert not any(found.tensors["hidden"].dynamic)


def test_a_dynamic_batch():
    found = facts(*convolved(("N", 3, 6, 3)))
    hidden = found.tensors["hidden"]
    assert found.batch > 1 and hidden.shape == (found.batch, 4, 6, 3)
    assert hidden.dynamic == (True, False, False, False)
    assert found.tensors["x"].dynamic == (True, False, False, False)


def test_dynamic_heights_and_widths():
    hidden = facts(*convolved(("N", 3, "H", "W"), strides=[2, 2])).tensors["hidden"]
    assert hidden.dynamic == (True, False, True, True) and hidden.shape[1] == 4


def test_a_declared_size_that_cannot_vary_is_static():
    """The length is declared dynamic, but the Gemm behind Flatten takes one only."""
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, "L")), 3, 2, (3,), name="hidden")
    found = facts(graph, graph.gemm(graph.node("Flatten", hidden), 2 * 224, 3))
    assert found.tensors["hidden"].dynamic == (True, False, False)
    assert found.tensors["hidden"].shape == (found.batch, 2, 224)


def test_a_width_varies_where_the_height_that_is_declared_dynamic_cannot():
    """The height is folded into channels."""
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, "H", "W")), 3, 2, name="hidden")
    columns = graph.node("Reshape", graph.node("Transpose", hidden, perm=[0, 3, 1, 2]), graph.constant([0, 0, 2 * 224]))
    found = facts(graph, graph.matmul(columns, 2 * 224, 3))
    assert found.tensors["hidden"].dynamic == (True, False, False, True)


def test_a_dynamic_batch_that_only_runs_single_samples():
    graph = Builder()
    rows = graph.node("Reshape", graph.input(("N", 12)), graph.constant([1, 3, 4]), name="rows")
    found = facts(graph, rows)
    assert found.batch == 1
    assert found.tensors["rows"].shape == (1, 3, 4) and not any(found.tensors["rows"].dynamic)


def test_weights_are_known():
    graph = Builder()
    small, large = graph.weight(3, 4, name="small"), graph.weight(MAX_VALUE_SIZE + 1, 3, name="large")
    product = graph.node("MatMul", graph.input(("N", MAX_VALUE_SIZE + 1)), large)
    model = load(graph.model(graph.node("MatMul", product, small)))
    found = probe(model).tensors
    np.testing.assert_array_equal(found["small"].value, model.weights["small"])
    assert not found["small"].varies.any()
    assert found["large"].shape == (MAX_VALUE_SIZE + 1, 3) and found["large"].value is None


def size_arithmetic(shape):
    """x (N, 4, L) → Reshape to (N, 2, 2 L) by what Shape says; "sizes" is the target."""
    graph = Builder()
    x = graph.input(shape)
    size = graph.node("Shape", x, name="shape")
    batch, length = (graph.node("Gather", size, graph.constant([axis])) for axis in (0, 2))
    doubled = graph.node("Mul", length, graph.constant([2]), name="doubled")
    sizes = graph.node("Concat", batch, graph.constant([2]), doubled, axis=0, name="sizes")
    return graph, graph.node("Reshape", x, sizes, name="reshaped")


def test_values_of_size_arithmetic():
    found = facts(*size_arithmetic(("N", 4, "L"))).tensors
    batch, channels, length = found["x"].shape
    np.testing.assert_array_equal(found["shape"].value, [batch, channels, length])
    assert found["shape"].varies.tolist() == [True, False, True]
    np.testing.assert_array_equal(found["sizes"].value, [batch, 2, 2 * length])
    assert found["sizes"].varies.tolist() == [True, False, True]
    assert found["doubled"].dynamic == (False,)
    assert found["reshaped"].dynamic == (True, False, True)


def test_sizes_of_a_static_model_do_not_vary():
    found = facts(*size_arithmetic((3, 4, 5))).tensors
    np.testing.assert_array_equal(found["sizes"].value, [3, 2, 10])
    assert not found["sizes"].varies.any()


def test_a_vector_whose_length_follows_the_input():
    graph = Builder()
    length = graph.node("Size", graph.input(("N",)), name="length")
    counted = graph.node("Range", graph.constant(0), length, graph.constant(1), name="counted")
    found = facts(graph, counted).tensors
    np.testing.assert_array_equal(found["counted"].value, np.arange(found["x"].shape[0]))
    assert found["counted"].varies.all() and found["counted"].dynamic == (True,)
    assert found["length"].varies.shape == () and found["length"].varies.all()


@pytest.mark.parametrize("op", ["Abs", "RandomNormalLike", "If"])
def test_values_that_follow_data_or_chance_are_not_known(op):
    graph = Builder()
    if op == "Abs":
        value = graph.node("Abs", graph.input(("N", 4)), name="value")
    elif op == "RandomNormalLike":
        value = graph.node(op, graph.constant([1.0, 2.0]), name="value")
    else:
        values = [helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])]
        branch = helper.make_graph(values, "branch", [], [helper.make_tensor_value_info("y", 1, [2])])
        value = graph.node("If", graph.constant(np.array(True)), then_branch=branch, else_branch=branch, name="value")
    found = facts(graph, value).tensors["value"]
    assert found.value is None and found.varies is None and found.shape


def test_every_tensor_is_listed():
    graph = Builder()
    parts = graph.nodes("Split", [graph.input(("N", 4)), graph.constant([1, 3])], 2, axis=1)
    found = facts(graph, graph.node("Relu", parts[0], name="relu")).tensors
    assert set(found) == {"x", "constant_0", *parts, "relu"}
    assert [found[name].shape[1] for name in parts] == [1, 3]


def test_an_optional_output_that_is_left_out():
    graph = Builder()
    hidden = graph.input(("N", 4))
    node = helper.make_node("Dropout", [hidden], ["y", ""], name="y")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    proto = helper.make_model(
        helper.make_graph([node], "graph", [entry], [output]), opset_imports=[helper.make_opsetid("", 17)]
    )
    proto.ir_version = 8
    assert set(probe(load(proto)).tensors) == {"x", "y"}


def test_constants_that_are_declared_as_inputs_are_not_fed():
    graph = Builder(ir_version=3)
    weight = graph.weight(4, 2, name="weight")
    proto = graph.model(graph.node("MatMul", graph.input(("N", 4)), weight, name="y"))
    proto.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 2]))
    found = probe(load(proto))
    assert found.tensors["weight"].shape == (4, 2) and found.tensors["y"].dynamic == (True, False)


def test_a_model_that_onnxruntime_refuses():
    graph = Builder()
    model = load(graph.model(graph.matmul(graph.input((2, 4)), 4, 3)))
    (name,) = model.weights
    model.replace(name, np.ones((5, 3), np.float32))
    with pytest.raises(ModelError, match="MatMul"):
        probe(model)


def test_a_model_that_no_made_up_input_suits():
    """It loads, but wants rows that the declared sizes do not tell."""
    graph = Builder()
    square = graph.node("Reshape", graph.input(("N", "M")), graph.constant([7, 7]))
    with pytest.raises(NothingToRemove, match=r"no made-up input shows its shapes; try sizes .* --shape: .*Reshape"):
        facts(graph, square)


@pytest.mark.parametrize("shape", [(1, 2**33), ("N", 2**33), (2**33, 3)], ids=str)
def test_an_input_too_large_to_feed(shape):
    """More bytes than any run could take are not asked for."""
    graph = declared(shape)
    for refused in (probe, lambda model: synthetic_inputs(model, 2), compress):
        with pytest.raises(ModelError, match=r"input 'x' is \(.*8589934592.*\), .* GiB for one run"):
            refused(load(graph))


def declared(shape):
    """A Relu of an input of this shape, which is too large to be tried."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_that_are_given():
    """Declared dynamic, but the Gemm behind Flatten takes one size only, and not the default."""
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, "H", "W")), 3, 2, name="hidden")
    model = load(graph.model(graph.gemm(graph.node("Flatten", hidden), 2 * 6 * 5, 4)))
    with pytest.raises(NothingToRemove, match="try sizes"):
        probe(model)
    found = probe(model, {"x": (1, 3, 6, 5)})
    assert found.batch > 1 and found.tensors["hidden"].shape == (found.batch, 2, 6, 5)
    assert found.tensors["hidden"].dynamic == (True, False, False, False)
    with pytest.raises(UsageError, match="does not fit input 'x'"):
        probe(model, {"x": (1, 4, 6, 5)})


def test_the_model_is_left_alone():
    model = load(size_arithmetic(("N", 4, "L"))[0].model("reshaped"))
    before = model.to_proto().SerializeToString(deterministic=True)
    probe(model)
    assert model.to_proto().SerializeToString(deterministic=True) == before
