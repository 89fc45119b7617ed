"""A producer and the affine operators behind it, folded: what the layer says is what onnxruntime computes."""

import numpy as np
import onnx
import pytest
from graphs import Builder

from lbyl_onnx.channels.folding import FoldedReader
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run

FILTERS = 8


def read(proto, producer="producer"):
    model = load(proto)
    groups = analyse(model, probe(model)).groups
    group = next(group for group in groups if group.name == producer)
    return FoldedReader(model).read(group.producers[0])


def assert_folded(proto, output):
    """The layer ends in tensor `output` and has its values (kernels of size 1, channels on axis 1)."""
    layer = read(proto)
    assert layer.output == output
    exposed = load(proto)
    if output not in {value.name for value in proto.graph.output}:
        exposed.proto.graph.output.append(onnx.ValueInfoProto(name=output))
    shape = [dim.dim_value or 2 for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (found,) = run(open_session(exposed), {"x": x}, [output])
    bias = layer.folded_bias.reshape(-1, *[1] * (x.ndim - 2))
    expected = np.einsum("of,nf...->no...", layer.folded_filters, x) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return layer


def convolution(follow, bias=True, space=(6, 3)):
    """Conv "producer" → `follow` → Conv; the model and the tensor that `follow` made."""
    graph = Builder()
    kernel = [1] * len(space)
    hidden = graph.conv(graph.input(("N", 3, *space)), 3, FILTERS, kernel, bias=bias, name="producer")
    followed = follow(graph, hidden)
    return graph.model(graph.conv(graph.node("Relu", followed), FILTERS, 4, kernel)), followed


def per_channel(graph):
    return graph.constant(graph.rng.uniform(0.5, 1.5, (FILTERS, 1, 1)))


def constants(graph, op="Identity"):
    """A BatchNormalization's four vectors, each through an operator."""
    return [graph.node(op, graph.positive(FILTERS)) for _ in range(4)]


AFFINE = {
    "nothing": lambda graph, x: x,
    "BN": lambda graph, x: graph.batch_norm(x, FILTERS),
    "Mul, Add": lambda graph, x: graph.node("Add", graph.node("Mul", x, per_channel(graph)), per_channel(graph)),
    "Add from the left": lambda graph, x: graph.node("Add", per_channel(graph), x),
    "Sub, Div": lambda graph, x: graph.node("Div", graph.node("Sub", x, per_channel(graph)), per_channel(graph)),
    "scalars": lambda graph, x: graph.node("Add", graph.node("Mul", x, graph.constant(2.0)), graph.constant(3.0)),
    "Identity, Dropout, BN": lambda graph, x: graph.batch_norm(
        graph.node("Dropout", graph.node("Identity", x)), FILTERS
    ),
    "Add, BN": lambda graph, x: graph.batch_norm(graph.node("Add", x, per_channel(graph)), FILTERS),
    "Mul, Add, BN, Mul, Sub": lambda graph, x: graph.node(
        "Sub",
        graph.node("Mul", graph.batch_norm(AFFINE["Mul, Add"](graph, x), FILTERS), per_channel(graph)),
        per_channel(graph),
    ),
    "BN of Identities": lambda graph, x: graph.node("BatchNormalization", x, *constants(graph)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("follow", AFFINE.values(), ids=AFFINE)
def test_affine_operators_are_folded(follow, bias):
    layer = assert_folded(*convolution(follow, bias))
    assert layer.filters.shape == (FILTERS, 3) and layer.filters.dtype == np.float64
    assert layer.is_matrix is False


def test_batch_normalisation_leaves_its_scale():
    proto, _ = convolution(AFFINE["BN"])
    layer = read(proto)
    model = load(proto)
    node = next(node for node in proto.graph.node if node.op_type == "BatchNormalization")
    np.testing.assert_array_equal(layer.gamma, model.weights[node.input[1]])
    variance = model.weights[node.input[4]].astype(np.float64)
    np.testing.assert_allclose(layer.scale, layer.gamma / np.sqrt(variance + 1e-5))
    assert layer.normalised and set(node.input[1:]) < layer.constants
    plain = read(convolution(AFFINE["Mul, Add"])[0])
    assert plain.gamma is None and not plain.normalised


def test_a_bias_in_front_of_the_batch_normalisation_stays_the_producers():
    layer = read(convolution(AFFINE["Add, BN"])[0])
    shift = read(convolution(AFFINE["Mul, Add"])[0])
    assert layer.bias.any() and not np.array_equal(layer.shift, np.zeros(FILTERS))
    assert not np.array_equal(shift.scale, np.ones(FILTERS)) and shift.shift.any()


def test_epsilon():
    proto, followed = convolution(lambda graph, x: graph.batch_norm(x, FILTERS))
    node = next(node for node in proto.graph.node if node.op_type == "BatchNormalization")
    node.attribute.append(onnx.helper.make_attribute("epsilon", 0.5))
    assert_folded(proto, followed)


OPAQUE = {
    "Relu": lambda graph, x: graph.node("Relu", x),
    "a fork": lambda graph, x: graph.node("Add", graph.batch_norm(x, FILTERS), graph.node("Relu", x)),
    "a second reader": lambda graph, x: graph.node("Add", x, x),
    "constant - x": lambda graph, x: graph.node("Sub", per_channel(graph), x),
    "constant / x": lambda graph, x: graph.node("Div", per_channel(graph), x),
    "computed scales": lambda graph, x: graph.node(
        "BatchNormalization", x, *(graph.node("Neg", name) for name in constants(graph, "Neg"))
    ),
    "a constant of every element": lambda graph, x: graph.node("Mul", x, graph.positive(FILTERS, 6, 3)),
}


@pytest.mark.parametrize("follow", OPAQUE.values(), ids=OPAQUE)
def test_other_operators_end_the_layer(follow):
    assert_folded(convolution(follow)[0], "producer")


@pytest.mark.parametrize("shape", [(FILTERS,), (1, FILTERS), (1, 1, 1, FILTERS)])
def test_a_constant_along_another_axis_of_equal_length_is_not_folded(shape):
    proto, _ = convolution(lambda graph, x: graph.node("Add", x, graph.positive(*shape)), space=(FILTERS, FILTERS))
    assert_folded(proto, "producer")


def test_a_second_batch_normalisation_is_not_folded():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, FILTERS, (1, 1), name="producer")
    first = graph.batch_norm(hidden, FILTERS)
    proto = graph.model(graph.conv(graph.batch_norm(first, FILTERS), FILTERS, 4))
    assert_folded(proto, first)


def test_an_output_of_the_model_ends_the_layer():
    graph = Builder()
    first = graph.conv(graph.input(), 3, FILTERS, (1, 1), name="producer")
    second = graph.batch_norm(first, FILTERS)
    assert_folded(graph.model(graph.conv(second, FILTERS, 4), first), first)


def dense(layer):
    """`layer` → Relu → Gemm; `layer` maps the Builder and the input to the tensor that it ends in."""
    graph = Builder()
    hidden = layer(graph, graph.input(("N", 5)))
    return graph.model(graph.gemm(graph.node("Relu", hidden), FILTERS, 3)), hidden


def gemm(graph, x, weight, *bias, **attributes):
    return graph.node("Gemm", x, weight, *bias, name="producer", **attributes)


DENSE = {
    "Gemm": lambda graph, x: gemm(graph, x, graph.weight(5, FILTERS)),
    "Gemm, bias": lambda graph, x: gemm(graph, x, graph.weight(5, FILTERS), graph.weight(FILTERS)),
    "Gemm, transB, bias": lambda graph, x: graph.gemm(x, 5, FILTERS, name="producer"),
    "Gemm, bias of two axes": lambda graph, x: gemm(graph, x, graph.weight(5, FILTERS), graph.weight(1, FILTERS)),
    "Gemm, scalar bias": lambda graph, x: gemm(graph, x, graph.weight(5, FILTERS), graph.weight(1)),
    "Gemm, alpha, beta": lambda graph, x: gemm(
        graph, x, graph.weight(5, FILTERS), graph.weight(FILTERS), alpha=0.5, beta=3.0
    ),
    "MatMul": lambda graph, x: graph.matmul(x, 5, FILTERS, name="producer"),
    "MatMul, Add": lambda graph, x: graph.node(
        "Add", graph.matmul(x, 5, FILTERS, name="producer"), graph.weight(FILTERS)
    ),
}


@pytest.mark.parametrize("layer", DENSE.values(), ids=DENSE)
def test_matrix_products(layer):
    folded = assert_folded(*dense(layer))
    assert folded.is_matrix and folded.filters.shape == (FILTERS, 5)
    np.testing.assert_array_equal(folded.scale, np.ones(FILTERS))
    np.testing.assert_array_equal(folded.shift, np.zeros(FILTERS))


def test_a_matrix_product_with_batch_normalisation_is_no_plain_matrix():
    layer = assert_folded(
        *dense(lambda graph, x: graph.batch_norm(graph.gemm(x, 5, FILTERS, name="producer"), FILTERS))
    )
    assert layer.normalised and not layer.is_matrix


def test_a_weight_on_the_left():
    """The channels are the rows: a constant of a row's length is not theirs, one value a row is."""
    for shape, output in [((FILTERS,), "producer"), ((FILTERS, 1), "add_1")]:
        graph = Builder()
        hidden = graph.node("MatMul", graph.weight(FILTERS, 5), graph.input((5, FILTERS)), name="producer")
        graph.node("Add", hidden, graph.positive(*shape))
        proto = graph.model(graph.node("MatMul", graph.weight(3, FILTERS), "add_1"))
        layer = read(proto)
        assert layer.output == output and layer.filters.shape == (FILTERS, 5)
        assert layer.bias.any() == (output == "add_1")


def test_transposed_convolution():
    graph = Builder()
    weights = [graph.weight(3, FILTERS, 1, 1), graph.weight(FILTERS)]
    hidden = graph.node("ConvTranspose", graph.input(), *weights, name="producer")
    normalised = graph.batch_norm(hidden, FILTERS)
    assert_folded(graph.model(graph.conv(normalised, FILTERS, 4)), normalised)


def test_kernels_are_flattened_filter_by_filter():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, FILTERS, name="producer")
    proto = graph.model(graph.conv(hidden, FILTERS, 4))
    weight = load(proto).weights[proto.graph.node[0].input[1]]
    np.testing.assert_array_equal(read(proto).filters, weight.reshape(FILTERS, 27))


def test_a_computed_weight_is_not_read():
    graph = Builder()
    hidden = graph.node("Conv", graph.input(), graph.node("Neg", graph.weight(FILTERS, 3, 1, 1)), name="producer")
    assert read(graph.model(graph.conv(hidden, FILTERS, 4))) is None


def test_constants_behind_a_cast_are_read_as_the_operator_sees_them():
    graph = Builder()

    def stored(*shape):
        half = graph.constant(graph.rng.uniform(0.5, 1.5, shape), np.float16)
        return graph.node("Cast", half, to=onnx.TensorProto.FLOAT)

    hidden = graph.node("Conv", graph.input(), stored(FILTERS, 3, 1, 1), stored(FILTERS), name="producer")
    normalised = graph.node("BatchNormalization", hidden, *(stored(FILTERS) for _ in range(4)))
    layer = assert_folded(graph.model(graph.conv(normalised, FILTERS, 4)), normalised)
    assert layer.constants == {f"constant_{number}" for number in range(6)}


# ---- the one layer that makes a group's channels


def single(proto, producer="producer"):
    model = load(proto)
    groups = analyse(model, probe(model)).groups
    return FoldedReader(model).single(next(group for group in groups if group.name == producer))


def test_a_single_producer():
    proto, followed = convolution(AFFINE["BN"])
    layer = single(proto)
    assert layer.output == followed and layer.filters.shape == (FILTERS, 3)


def test_several_producers():
    graph = Builder()
    x = graph.input()
    first, second = (graph.conv(x, 3, FILTERS, (1, 1), name=name) for name in ("first", "second"))
    proto = graph.model(graph.conv(graph.node("Add", first, second), FILTERS, 4))
    assert single(proto, "first") == "several producers make these channels"


def test_a_single_producer_whose_weight_others_read():
    graph = Builder()
    weight = graph.weight(FILTERS, 3, 1, 1)
    hidden = graph.node("Conv", graph.input(), weight, name="producer")
    other = graph.node("ReduceMax", weight, keepdims=0)
    proto = graph.model(graph.node("Add", graph.conv(graph.node("Relu", hidden), FILTERS, 4), other))
    assert single(proto) == "the weight of 'producer' is shared with other nodes"


def test_a_single_producer_whose_weight_is_computed():
    graph = Builder()
    hidden = graph.node("Conv", graph.input(), graph.node("Neg", graph.weight(FILTERS, 3, 1, 1)), name="producer")
    assert single(graph.model(graph.conv(hidden, FILTERS, 4))) == "the weight of 'producer' is computed"


def test_a_unit_of_several_filters():
    """Whole blocks go together where DepthToSpace makes one channel of four."""
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, FILTERS, (1, 1), name="producer")
    large = graph.node("DepthToSpace", hidden, blocksize=2)
    assert single(graph.model(graph.conv(large, FILTERS // 4, 4))) == "a unit has several filters"
