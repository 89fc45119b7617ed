"""Graphs as exporters write them: opsets and IR versions, TensorFlow's layout, decomposed normalisations, functions."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder, assert_equivalent, between, check, prune
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.model.reading import load


def newest_opset():
    """The newest opset that both onnx and onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 6, -1):
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "graph",
            [helper.make_tensor_value_info("x", 1, [1])],
            [helper.make_tensor_value_info("y", 1, [1])],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception:
            continue
        return opset
    raise AssertionError("onnxruntime knows no opset")


def reduced(graph, op, x, axes, since):
    """A reduction or Squeeze, whose axes became an input in opset `since`."""
    if graph.opset < since:
        return graph.node(op, x, axes=axes)
    return graph.node(op, x, graph.constant(axes))


@pytest.mark.parametrize("opset", range(7, newest_opset() + 1))
def test_every_opset(opset):
    """A small network of operators whose form has changed over the opsets."""
    graph = Builder(opset, ir_version=4 if opset < 9 else 8 if opset < 21 else 10)
    x = graph.batch_norm(graph.conv(graph.input((2, 3, 6, 4)), 3, 8, name="stem"), 8)
    if opset < 11:
        x = graph.node("Clip", x, min=0.0, max=6.0)
        x = graph.node("Pad", x, pads=[0, 0, 1, 1, 0, 0, 0, 0])
    else:
        x = graph.node("Clip", x, graph.constant(0.0), graph.constant(6.0))
        x = graph.node("Pad", x, graph.constant([0, 0, 1, 1, 0, 0, 0, 0]))
    x = graph.node("MaxPool", graph.node("Dropout", x), kernel_shape=[2, 2], strides=[1, 1])
    if opset < 13:
        left, right = graph.nodes("Split", [x], 2, axis=1, split=[5, 3])
    else:
        left, right = graph.nodes("Split", [x, graph.constant([5, 3])], 2, axis=1)
    if opset < 10:
        left = graph.node("Slice", left, axes=[1], starts=[1], ends=[5])
    else:
        left = graph.node("Slice", left, graph.constant([1]), graph.constant([5]), graph.constant([1]))
    x = graph.conv(graph.node("Concat", right, left, axis=1), 7, 6, name="body")
    x = reduced(graph, "ReduceMean", x, [2, 3], since=18)
    x = reduced(graph, "Squeeze", x, [2, 3], since=13)
    x = graph.gemm(graph.node("Reshape", x, graph.constant([-1, 6])), 6, 4, name="head")
    proto = graph.model(graph.node("Softmax", x, axis=1))
    if opset < 9:
        proto.ir_version = 3
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    check(proto, free=["stem", "body"])


# ---- TensorFlow's layout


def in_nchw(graph, x, layer, *arguments, **attributes):
    """A layer between two Transposes."""
    inside = layer(graph.node("Transpose", x, perm=[0, 3, 1, 2]), *arguments, **attributes)
    return graph.node("Transpose", inside, perm=[0, 2, 3, 1])


def scaled(graph, x, channels, shape):
    """BatchNormalization as a product and a sum."""
    product = graph.node("Mul", x, graph.constant(graph.rng.uniform(0.5, 1.5, shape)))
    return graph.node("Add", product, graph.constant(graph.rng.standard_normal(shape)))


@pytest.mark.parametrize("per_channel", [(8,), (1, 1, 1, 8)])
def test_channels_last(per_channel):
    """A MobileNet block of tf2onnx: separable convolution, bottleneck gate, residual sum, pooled classifier."""
    graph = Builder(13)
    x = in_nchw(graph, graph.input(("N", 6, 4, 3)), graph.conv, 3, 8, name="stem", bias=False)
    x = stream = graph.node("Relu", scaled(graph, x, 8, per_channel))
    x = graph.node("Pad", x, graph.constant([0, 1, 1, 0, 0, 1, 1, 0]))
    x = in_nchw(graph, x, graph.conv, 8, 8, group=8, name="depthwise", bias=False, pads=[0, 0, 0, 0])
    x = graph.node("Min", graph.node("Relu", scaled(graph, x, 8, per_channel)), graph.constant(6.0))
    gate = graph.node("ReduceMean", x, axes=[1, 2], keepdims=1)
    gate = graph.node("Relu", in_nchw(graph, gate, graph.conv, 8, 4, (1, 1), name="squeeze"))
    gate = graph.node("Sigmoid", in_nchw(graph, gate, graph.conv, 4, 8, (1, 1), name="excite"))
    x = in_nchw(graph, graph.node("Mul", x, gate), graph.conv, 8, 8, (1, 1), name="project", bias=False)
    x = graph.node("Add", scaled(graph, x, 8, per_channel), stream)
    x = graph.node("ReduceMean", x, axes=[1, 2], keepdims=0)
    check(graph.model(graph.node("Add", graph.matmul(x, 8, 5), graph.weight(5))), free=["stem", "squeeze"])


@pytest.mark.parametrize("form", ["constant", "computed"])
def test_flattened_channels_last(form):
    """Flatten by Reshape: channels vary fastest, so every pixel's row goes in the classifier."""
    graph = Builder(13)
    x = in_nchw(graph, graph.input(("N", 6, 4, 3)), graph.conv, 3, 8, name="stem")
    if form == "constant":
        target = graph.constant([-1, 6 * 4 * 8])
    else:
        batch = graph.node("Slice", graph.node("Shape", x), graph.constant([0]), graph.constant([1]))
        target = graph.node("Concat", batch, graph.constant([6 * 4 * 8]), axis=0)
    x = graph.node("Reshape", x, target)
    check(graph.model(graph.matmul(x, 6 * 4 * 8, 5)), free=["stem"], units=8)


def test_dilated_convolution_by_space_to_batch():
    graph = Builder(13)
    x = graph.conv(graph.input(("N", 3, 6, 4)), 3, 8, name="stem")
    x = graph.node("Transpose", graph.node("Relu", x), perm=[0, 2, 3, 1])
    x = graph.node("Reshape", x, graph.constant([-1, 3, 2, 2, 2, 8]))
    x = graph.node("Reshape", graph.node("Transpose", x, perm=[2, 4, 0, 1, 3, 5]), graph.constant([-1, 3, 2, 8]))
    x = in_nchw(graph, x, graph.conv, 8, 6, name="dilated")
    x = graph.node("Reshape", x, graph.constant([2, 2, -1, 3, 2, 6]))
    x = graph.node("Reshape", graph.node("Transpose", x, perm=[2, 3, 0, 4, 1, 5]), graph.constant([-1, 6, 4, 6]))
    check(graph.model(in_nchw(graph, x, graph.conv, 6, 4)), free=["stem", "dilated"])


def test_a_gated_1d_network_by_expand_and_squeeze():
    """Keras' Conv1D: a fourth axis is added for the convolution and taken away again."""
    graph = Builder(13)

    def conv1d(x, inputs, filters, name):
        x = graph.node("Unsqueeze", graph.node("Transpose", x, perm=[0, 2, 1]), graph.constant([2]))
        x = graph.conv(x, inputs, filters, (1, 3), name=name)
        return graph.node("Transpose", graph.node("Squeeze", x, graph.constant([2])), perm=[0, 2, 1])

    x = graph.input(("N", 7, 3))
    gated = graph.node(
        "Mul", graph.node("Tanh", conv1d(x, 3, 8, "filter")), graph.node("Sigmoid", conv1d(x, 3, 8, "gate"))
    )
    check(graph.model(conv1d(gated, 8, 4, "out")), free=["filter", "gate"], units=8)


# ---- decomposed normalisations


@pytest.mark.parametrize("target", [[0, 2, -1], [0, 2, 4 * 24]])
def test_group_norm_by_instance_norm(target):
    def middle(graph, x):
        grouped = graph.node("Reshape", x, graph.constant(target))
        grouped = graph.node("InstanceNormalization", grouped, graph.constant([1.0, 1.0]), graph.constant([0.0, 0.0]))
        back = graph.node("Reshape", grouped, graph.node("Shape", x))
        return scaled(graph, back, 8, (8, 1, 1))

    check(between(middle, space=(6, 4)), free=["producer"], units=2)


def test_group_norm_by_means():
    def middle(graph, x):
        grouped = graph.node("Reshape", x, graph.constant([0, 4, 2, 6, 4]))
        centred = graph.node("Sub", grouped, graph.node("ReduceMean", grouped, axes=[2, 3, 4]))
        variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), axes=[2, 3, 4])
        normed = graph.node("Div", centred, graph.node("Sqrt", graph.node("Add", variance, graph.constant(1e-5))))
        return scaled(graph, graph.node("Reshape", normed, graph.constant([0, 8, 6, 4])), 8, (1, 8, 1, 1))

    check(between(middle, space=(6, 4)), free=["producer"], units=4)


def test_layer_norm_over_channels_of_a_map_stays():
    """ConvNeXt's LayerNorm2d between two Transposes."""

    def middle(graph, x):
        x = graph.node("Transpose", x, perm=[0, 2, 3, 1])
        x = graph.node("LayerNormalization", x, graph.positive(8), graph.weight(8), axis=-1, name="norm")
        return graph.node("Transpose", x, perm=[0, 3, 1, 2])

    check(between(middle), frozen={"producer": "LayerNormalization 'norm' normalises over them"})


# ---- subgraphs and functions


def test_what_a_scan_carries_stays():
    step = helper.make_graph(
        [helper.make_node("Add", ["sum", "row"], ["next"]), helper.make_node("Identity", ["next"], ["seen"])],
        "step",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("sum", "row")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("next", "seen")],
    )
    graph = Builder()
    rows = graph.matmul(graph.input((5, 6)), 6, 8, name="producer")
    start = graph.constant(np.zeros(8))
    _, sums = graph.nodes("Scan", [start, rows], 2, num_scan_inputs=1, body=step, name="scan")
    hidden = graph.matmul(sums, 8, 7, name="free")
    proto = graph.model(graph.matmul(hidden, 7, 3))
    check(proto, free=["free"], frozen={"producer": "operator Scan 'scan' has no rule"})


def with_functions():
    """x → Block "first" → Relu "between" → Block "second"; a Block is a Conv, a product with a constant and a Relu."""
    opset = helper.make_opsetid("", 17)
    scale = numpy_helper.from_array(np.full((1, 1, 1), 0.5, np.float32))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["convolved"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["scale"], value=scale),
        helper.make_node("Mul", ["convolved", "scale"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    block = helper.make_function("local", "Block", ["x", "w"], ["y"], nodes, [opset])
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((8, 3, 3, 3)), "w1": rng.standard_normal((4, 8, 3, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Block", ["x", "w0"], ["a"], name="first", domain="local"),
            helper.make_node("Relu", ["a"], ["b"], name="between"),
            helper.make_node("Block", ["b", "w1"], ["y"], name="second", domain="local"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 6, 3])],
        [helper.make_tensor_value_info("y", 1, ["N", 4, 6, 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    opsets = [opset, helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[block], ir_version=8)


def test_functions_are_inlined():
    proto = with_functions()
    model = load(proto)
    assert [node.op_type for node in model.proto.graph.node].count("Conv") == 2
    assert [node.name for node in model.proto.graph.node if node.op_type == "Relu"][1] == "between"
    pruned = prune(model, ratio=0.5)
    assert_equivalent(pruned)
    assert pruned.shape("w0") == (4, 3, 3, 3) and pruned.shape("w1") == (4, 4, 3, 3)
    assert [value.name for value in pruned.model.proto.graph.output] == ["y"]
