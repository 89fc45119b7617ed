"""Sizes that models run at: small graphs that take one size of an axis only, or some."""

import pytest
from graphs import Builder
from onnx import TensorProto, helper

from lbyl_onnx.calibration.runnable_sizes import LENGTHS, SIZES, runnable_sizes, sizes_found
from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import RunOptions

CPU = RunOptions("cpu")


def found(graph, *outputs, **shapes):
    return runnable_sizes(load(graph.model(*outputs)), shapes, CPU)


def lines(height=48):
    """A reader of lines of text, whose height is folded into channels, as many as there were in training."""
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, "H", 40)), 3, 4, name="hidden")
    columns = graph.node("Reshape", hidden, graph.constant([0, 4 * height, 40]), name="columns")
    return graph, graph.conv(columns, 4 * height, 2, (1,), name="out")


def test_usual_sizes_are_kept_where_the_model_runs_at_them():
    graph = Builder()
    assert found(graph, graph.conv(graph.input(("N", 3, "H", "W")), 3, 4)) == {}


@pytest.mark.parametrize("height", [32, 48, 64])
def test_a_height_that_a_model_was_trained_at(height):
    graph, out = lines(height)
    assert found(graph, out) == {"x": (1, 3, height, 40)}


def test_features_that_only_weights_name():
    graph = Builder()
    hidden = graph.node("Relu", graph.gemm(graph.input(("N", "F")), 397, 8))
    assert found(graph, graph.gemm(hidden, 8, 3)) == {"x": (1, 397)}


def test_all_axes_of_an_image_alike():
    """The two axes are joined, and have to be equal."""
    graph = Builder()
    x = graph.input(("N", 3, "H", "W"))
    squared = graph.node("MatMul", x, x, name="squared")
    reshaped = graph.node("Reshape", squared, graph.constant([0, 3 * 96 * 96]), name="flat")
    assert found(graph, graph.gemm(reshaped, 3 * 96 * 96, 2)) == {"x": (1, 3, 96, 96)}


def test_signals_are_tried_longer():
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 1, "L")), 1, 2, (700,), name="hidden", pads=[0, 0])
    assert max(SIZES) < 700 and found(graph, hidden) == {"x": (1, 1, min(LENGTHS))}


def test_sizes_whose_values_are_finite():
    """The logarithm of how far a signal is longer than 300."""
    graph = Builder()
    length = graph.node("Gather", graph.node("Shape", graph.input(("N", "L"))), graph.constant(1))
    excess = graph.node("Cast", graph.node("Sub", length, graph.constant(300)), to=TensorProto.FLOAT)
    assert found(graph, graph.node("Add", "x", graph.node("Log", excess))) == {"x": (1, 320)}


def test_sizes_that_are_named_are_kept():
    graph, out = lines()
    assert found(graph, out, x=(1, 3, 33, 40)) == {"x": (1, 3, 33, 40)}


def test_nothing_is_found_where_no_size_runs():
    graph = Builder()
    rows = graph.node("Reshape", graph.input(("N", "F")), graph.constant([7, 1000003]), name="rows")
    assert found(graph, rows) == {}


def test_static_inputs_are_not_run():
    graph = Builder()
    rows = graph.node("Reshape", graph.input(("N", 5)), graph.constant([7, 1000003]), name="rows")
    assert found(graph, rows) == {}


def test_a_model_whose_inputs_are_no_numbers_keeps_what_is_named():
    value = helper.make_tensor_value_info("x", TensorProto.STRING, ["N", "F"])
    out = helper.make_tensor_value_info("y", TensorProto.STRING, ["N", "F"])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [out])
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert runnable_sizes(model, {"x": (1, 2)}, CPU) == {"x": (1, 2)}


def test_a_model_that_onnxruntime_refuses():
    graph, out = lines()
    proto = graph.model(out)
    proto.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelError, match="onnxruntime refuses"):
        runnable_sizes(load(proto), {}, CPU)


def test_shapes_that_do_not_fit():
    graph, out = lines()
    with pytest.raises(UsageError, match="does not fit"):
        found(graph, out, x=(1, 3, 48))


def test_what_was_found_is_told_as_the_option_takes_it():
    assert sizes_found({"x": (1, 2)}, {"x": (1, 2), "y": (1, 3, 48, 224)}) == [
        "input 'y' was run at (1, 3, 48, 224), as made-up inputs of the usual size do not run; name others with "
        "--shape y:1x3x48x224"
    ]
