"""Places for scales and shifts: after `rescale` the layer's channels are scale * y + shift, and nothing else moves."""

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper

from lbyl_onnx.model.graph import GraphIndex
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.restoration.output_channels import output_channels, rescale

CHANNELS = 4


def node_of(model, name):
    return next(node for node in model.proto.graph.node if node.output[0] == name)


def find(proto, name="layer"):
    model = load(proto)
    return model, output_channels(GraphIndex(model), node_of(model, name))


def values(model, name, seed=0):
    exposed = model.copy()
    if name not in {output.name for output in exposed.proto.graph.output}:
        exposed.proto.graph.output.append(onnx.ValueInfoProto(name=name))
    shape = [dim.dim_value or 3 for dim in model.proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return run(open_session(exposed), {"x": x}, [name])[0].astype(np.float64)


def assert_rescales(proto, seen="layer", axis=1, through=lambda y: y, layer="layer"):
    """Rescaling `layer` takes tensor `seen` from through(y) to through(scale * y + shift), y the layer's own output
    before."""
    model, place = find(proto, layer)
    assert place is not None and place.takes_shift and place.name == layer
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.3, 3, CHANNELS), rng.standard_normal(CHANNELS)
    before, own = values(model, seen), values(model, layer)
    np.testing.assert_allclose(through(own), before, rtol=1e-4, atol=1e-4)
    along = [1] * own.ndim
    along[axis] = CHANNELS
    changed = model.copy()
    rescale(changed, place, scale, shift)
    onnx.checker.check_model(changed.to_proto())
    expected = through(own * scale.reshape(along) + shift.reshape(along))
    np.testing.assert_allclose(values(changed, seen), expected, rtol=1e-4, atol=1e-4)
    touched = {name for name in changed.weights if changed.weights[name] is not model.weights.get(name)}
    weight = place.layer.weight.name
    assert weight in touched and len(touched) == 2
    assert all(changed.weights[name].dtype == model.weights[weight].dtype for name in touched)
    return model, place


# ---- every layer and every place


@pytest.mark.parametrize("space", [(5,), (5, 4), (3, 4, 2)])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_with_a_bias(space, group):
    graph = Builder()
    x = graph.conv(graph.input(("N", 4, *space)), 4, CHANNELS, [3] * len(space), group, name="layer")
    model, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert place.bias is not None and place.shift_after is None and not place.vacant
    assert place.layer.weight.read(model).shape[place.layer.output_axis] == CHANNELS


def test_conv_without_a_bias_gets_one():
    graph = Builder()
    x = graph.conv(graph.input(), 3, CHANNELS, bias=False, name="layer")
    model, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert place.vacant and place.bias is None
    assert len(node_of(model, "layer").input) == 2
    changed = model.copy()
    rescale(changed, place, np.ones(CHANNELS), np.arange(CHANNELS, dtype=np.float64))
    assert len(node_of(changed, "layer").input) == 3
    np.testing.assert_array_equal(changed.weights[node_of(changed, "layer").input[2]], np.arange(CHANNELS))


def test_conv_with_an_empty_name_for_its_bias():
    graph = Builder()
    x = graph.node("Conv", graph.input(), graph.weight(CHANNELS, 3, 3, 3), "", name="layer")
    assert_rescales(graph.model(graph.node("Relu", x)))


@pytest.mark.parametrize("vectors", ["own", "identity"])
def test_conv_in_front_of_batch_normalisation(vectors):
    """The shift goes into the running mean; what the normalisation computes is that of the shifted layer."""
    graph = Builder()
    x = graph.conv(graph.input(), 3, CHANNELS, bias=False, name="layer")
    constants = [graph.positive(CHANNELS) for _ in range(4)]
    if vectors == "identity":
        constants = [graph.node("Identity", name) for name in constants]
    x = graph.node("BatchNormalization", x, *constants, name="bn")
    proto = graph.model(graph.node("Relu", x))
    gamma, beta, mean, variance = (load(proto).weights[f"constant_{number}"] for number in (1, 2, 3, 4))

    def normalise(y):
        gamma_, beta_, mean_, variance_ = (v.reshape(-1, 1, 1) for v in (gamma, beta, mean, variance))
        return gamma_ * (y - mean_) / np.sqrt(variance_ + 1e-5) + beta_

    _, place = assert_rescales(proto, "bn", through=normalise)
    assert place.sign == -1 and place.shift_after.name == "constant_3"


def test_conv_with_a_bias_in_front_of_batch_normalisation():
    graph = Builder()
    x = graph.batch_norm(graph.conv(graph.input(), 3, CHANNELS, name="layer"), CHANNELS)
    _, place = assert_rescales(graph.model(x))
    assert place.bias is not None and place.shift_after is None


@pytest.mark.parametrize("shape", [("N", 5), (3, 5)])
@pytest.mark.parametrize(
    "attributes", [{"transB": 1}, {}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": -1.0, "beta": 0.25}]
)
@pytest.mark.parametrize("bias", [(CHANNELS,), (1, CHANNELS)])
def test_gemm(attributes, shape, bias):
    graph = Builder()
    x, weight = graph.input(shape), graph.weight(*(CHANNELS, 5) if "transB" in attributes else (5, CHANNELS))
    x = graph.node("Gemm", x, weight, graph.constant(graph.rng.standard_normal(bias)), name="layer", **attributes)
    model, place = assert_rescales(graph.model(graph.node("Relu", x)), axis=-1)
    assert place.layer.beta == attributes.get("beta", 1) and place.bias.read(model).shape == bias


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_gemm_without_a_bias(beta):
    graph = Builder()
    x = graph.node("Gemm", graph.input(("N", 5)), graph.weight(5, CHANNELS), beta=beta, name="layer")
    _, place = assert_rescales(graph.model(graph.node("Relu", x)), axis=-1)
    assert place.vacant


def test_gemm_in_front_of_batch_normalisation():
    graph = Builder()
    x = graph.node("Gemm", graph.input(("N", 5)), graph.weight(5, CHANNELS), name="layer")
    vectors = [graph.constant(np.full(CHANNELS, value)) for value in (1.0, 0.0, 2.0, 1.0)]
    x = graph.node("BatchNormalization", x, *vectors, name="bn", epsilon=0.0)
    assert_rescales(graph.model(x), "bn", axis=-1, through=lambda y: y - 2)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("shape", "bias"),
    [
        (("N", 5), (CHANNELS,)),
        (("N", 5), (1, CHANNELS)),
        (("N", 3, 5), (CHANNELS,)),
        (("N", 3, 5), (1, 1, CHANNELS)),
        (("N", 2, 3, 5), (CHANNELS,)),
    ],
)
def test_matmul_and_add(shape, bias, first):
    graph = Builder()
    x = graph.matmul(graph.input(shape), 5, CHANNELS, name="layer")
    constant = graph.constant(np.full(bias, 0.5))
    x = graph.node("Add", *((x, constant) if first else (constant, x)), name="sum")
    _, place = assert_rescales(graph.model(graph.node("Relu", x)), "sum", axis=-1, through=lambda y: y + 0.5)
    assert place.sign == 1 and not place.vacant


def test_a_matmul_alone_takes_a_scale_only():
    graph = Builder()
    proto = graph.model(graph.node("Relu", graph.matmul(graph.input(("N", 5)), 5, CHANNELS, name="layer")))
    model, place = find(proto)
    assert not place.takes_shift
    scale = np.array([1.0, 2.0, 0.5, 3.0])
    changed = model.copy()
    rescale(changed, place, scale, np.zeros(CHANNELS))
    np.testing.assert_allclose(values(changed, "layer"), values(model, "layer") * scale, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose(bias):
    graph = Builder()
    weights = [graph.weight(3, CHANNELS, 3, 3)] + ([graph.weight(CHANNELS)] if bias else [])
    x = graph.node("ConvTranspose", graph.input(("N", 3, 4, 5)), *weights, strides=[2, 2], name="layer")
    _, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert place.layer.output_axis == 1 and place.vacant == (not bias)


@pytest.mark.parametrize("attributes", [{"output_shape": [9, 11]}, {"auto_pad": "SAME_UPPER"}], ids=str)
def test_conv_transpose_that_rows_do_not_describe(attributes):
    """It cannot be fitted, but its channels can be moved."""
    graph = Builder()
    weights = graph.weight(3, CHANNELS, 3, 3), graph.weight(CHANNELS)
    x = graph.node("ConvTranspose", graph.input(("N", 3, 4, 5)), *weights, strides=[2, 2], name="layer", **attributes)
    _, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert not place.layer.is_rows


def test_the_output_of_the_model():
    graph = Builder()
    assert_rescales(graph.model(graph.conv(graph.input(), 3, CHANNELS, name="layer")))
    graph = Builder()
    assert_rescales(graph.model(graph.conv(graph.input(), 3, CHANNELS, bias=False, name="layer")))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_constants_keep_their_type(dtype):
    graph = Builder()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = graph.constant(graph.rng.standard_normal((5, CHANNELS)), dtype)
    x = graph.node("Gemm", graph.input(("N", 5), kind=kind), weight, name="layer")
    model, place = find(graph.model(x))
    rescale(model, place, np.full(CHANNELS, 2.0), np.ones(CHANNELS))
    assert [model.weights[name].dtype for name in node_of(model, "layer").input[1:]] == [dtype, dtype]


# ---- whose constant it is


def test_constants_behind_identity():
    graph = Builder()
    weight, bias = graph.weight(CHANNELS, 3, 3, 3), graph.weight(CHANNELS)
    through = [graph.node("Identity", graph.node("Identity", name)) for name in (weight, bias)]
    x = graph.node("Conv", graph.input(), *through, name="layer")
    _, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert (place.layer.weight.name, place.bias.name) == (weight, bias)


def test_constants_behind_a_cast():
    """They change in the type that they are stored in."""
    graph = Builder()
    stored = [graph.constant(graph.rng.standard_normal(shape), np.float64) for shape in ((CHANNELS, 3, 3, 3), CHANNELS)]
    widened = [graph.node("Cast", name, to=TensorProto.FLOAT) for name in stored]
    x = graph.node("Conv", graph.input(), *widened, name="layer")
    model, place = assert_rescales(graph.model(graph.node("Relu", x)))
    assert [place.layer.weight.name, place.bias.name] == stored
    assert {model.weights[name].dtype for name in stored} == {np.dtype(np.float64)}


def two_convs(connect):
    """Two Convs of one input; `connect(graph, weight)` gives the names that they read the weight by."""
    graph = Builder()
    x, weight = graph.input(), graph.weight(CHANNELS, 3, 3, 3)
    one, two = connect(graph, weight)
    outputs = [graph.node("Conv", x, name, name=label) for name, label in ((one, "layer"), (two, "other"))]
    return graph.model(*outputs)


def identity_of(graph, name):
    return graph.node("Identity", name)


def behind_one_identity(graph, weight):
    shared = graph.node("Identity", weight)
    return shared, graph.node("Identity", shared)


@pytest.mark.parametrize(
    "connect",
    [
        lambda graph, weight: (weight, weight),
        lambda graph, weight: (weight, identity_of(graph, weight)),
        lambda graph, weight: (identity_of(graph, weight), identity_of(graph, weight)),
        lambda graph, weight: (identity_of(graph, weight),) * 2,
        behind_one_identity,
    ],
    ids=["weight", "weight and identity", "two identities", "one identity", "identity of an identity"],
)
def test_a_shared_weight_is_no_place(connect):
    for layer in ("layer", "other"):
        assert find(two_convs(connect), layer)[1] is None


def test_a_shared_bias_is_no_place():
    graph = Builder()
    x, bias = graph.input(), graph.weight(CHANNELS)
    outputs = [graph.node("Conv", x, graph.weight(CHANNELS, 3, 1, 1), bias, name=name) for name in ("layer", "other")]
    assert find(graph.model(*outputs))[1] is None


def test_a_shared_running_mean_is_no_place():
    """The layer takes a bias of its own instead."""
    graph = Builder()
    x, mean = graph.input(), graph.positive(CHANNELS)
    outputs = []
    for name in ("layer", "other"):
        hidden = graph.conv(x, 3, CHANNELS, bias=False, name=name)
        rest = [graph.positive(CHANNELS) for _ in range(3)]
        outputs.append(graph.node("BatchNormalization", hidden, rest[0], rest[1], mean, rest[2]))
    _, place = assert_rescales(graph.model(*outputs))
    assert place.vacant and place.shift_after is None


def test_a_constant_that_a_subgraph_reads_is_shared():
    graph = Builder()
    x, weight = graph.input(("N", 5)), graph.weight(5, CHANNELS, name="weight")
    hidden = graph.node("Gemm", x, weight, name="layer")
    branches = [
        helper.make_graph(
            [helper.make_node(op, list(inputs), [f"{op}_out"])], op, [], [onnx.ValueInfoProto(name=f"{op}_out")]
        )
        for op, inputs in (("MatMul", (x, weight)), ("Identity", (hidden,)))
    ]
    positive = graph.node("Greater", graph.node("ReduceSum", hidden, keepdims=0), graph.constant(0.0))
    chosen = graph.node("If", positive, then_branch=branches[0], else_branch=branches[1])
    assert find(graph.model(graph.node("Relu", chosen)))[1] is None


def test_a_constant_that_is_an_output_is_shared():
    graph = Builder()
    weight = graph.weight(5, CHANNELS, name="weight")
    proto = graph.model(graph.node("Gemm", graph.input(("N", 5)), weight, name="layer"))
    proto.graph.output.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [5, CHANNELS]))
    assert find(proto)[1] is None


# ---- what follows


def followed_by(follow, width=3, bias=False):
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, 6, width)), 3, CHANNELS, bias=bias, name="layer")
    return graph.model(*follow(graph, hidden))


def test_a_second_reader_keeps_the_shift_out_of_the_normalisation():
    def follow(graph, hidden):
        return [graph.batch_norm(hidden, CHANNELS), graph.node("Relu", hidden)]

    _, place = assert_rescales(followed_by(follow))
    assert place.vacant


def test_an_output_keeps_the_shift_out_of_the_normalisation():
    _, place = assert_rescales(followed_by(lambda graph, hidden: [graph.batch_norm(hidden, CHANNELS), hidden]))
    assert place.vacant


def test_a_subgraph_that_reads_the_output_keeps_the_shift_out_of_the_normalisation():
    graph = Builder()
    hidden = graph.node("Gemm", graph.input(("N", 5)), graph.weight(5, CHANNELS), name="layer")
    branches = [
        helper.make_graph(
            [helper.make_node(op, [hidden], [f"{op}_out"])], op, [], [onnx.ValueInfoProto(name=f"{op}_out")]
        )
        for op in ("Relu", "Neg")
    ]
    normalised = graph.batch_norm(hidden, CHANNELS)
    positive = graph.node("Greater", graph.node("ReduceSum", normalised, keepdims=0), graph.constant(0.0))
    chosen = graph.node("If", positive, then_branch=branches[0], else_branch=branches[1])
    _, place = assert_rescales(graph.model(chosen), axis=-1)
    assert place.vacant


def test_an_add_along_the_width_takes_no_shift_of_channels():
    """A vector as long as there are channels, but added along another axis."""
    proto = followed_by(lambda graph, hidden: [graph.node("Add", hidden, graph.weight(CHANNELS))], width=CHANNELS)
    _, place = assert_rescales(proto)
    assert place.vacant


@pytest.mark.parametrize("tokens", [CHANNELS, CHANNELS + 1])
def test_a_normalisation_of_another_axis_takes_no_shift_of_channels(tokens):
    """MatMul's channels are the last axis; BatchNormalization's are axis 1."""
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", tokens, 5)), 5, CHANNELS, name="layer")
    proto = graph.model(graph.batch_norm(hidden, tokens))
    model, place = find(proto)
    assert place is not None and not place.takes_shift
    rescale(model, place, np.full(CHANNELS, 2.0), np.zeros(CHANNELS))
    np.testing.assert_allclose(values(model, "layer"), 2 * values(load(proto), "layer"), rtol=1e-5)


@pytest.mark.parametrize("shape", [(CHANNELS, 1), (1,), (3, CHANNELS)], ids=str)
def test_an_add_of_another_shape_takes_no_shift(shape):
    graph = Builder()
    hidden = graph.matmul(
        graph.input((3 if len(shape) > 1 and shape[0] == 3 else CHANNELS, 5)), 5, CHANNELS, name="layer"
    )
    _, place = find(graph.model(graph.node("Add", hidden, graph.weight(*shape))))
    assert not place.takes_shift


# ---- layers without any place


def test_layers_without_a_place():
    graph = Builder()
    x = graph.input(("N", 4, 5))
    computed = graph.node("Conv", x, graph.node("Relu", graph.weight(4, 4, 3)), name="computed")
    transposed = graph.node("ConvTranspose", computed, graph.weight(4, 2, 3), group=2, name="grouped")
    stacked = graph.node("MatMul", transposed, graph.weight(1, 5, 6), name="stacked")
    product = graph.node("MatMul", stacked, graph.node("Transpose", stacked, perm=[0, 2, 1]), name="product")
    left = graph.node("MatMul", graph.weight(3, 4), product, name="left")
    model = load(graph.model(left))
    index = GraphIndex(model)
    for name in ("computed", "grouped", "stacked", "product", "left"):
        assert output_channels(index, node_of(model, name)) is None


def test_a_gemm_that_ignores_its_bias_has_no_place():
    graph = Builder()
    x = graph.gemm(graph.input(("N", 5)), 5, CHANNELS, beta=0.0, name="layer")
    assert find(graph.model(x))[1] is None


@pytest.mark.parametrize("bias", [(), (1,), (CHANNELS, CHANNELS), (CHANNELS, 1)], ids=str)
def test_a_bias_that_is_no_vector_of_channels_has_no_place(bias):
    graph = Builder()
    constant = graph.constant(np.ones(bias, np.float32))
    x = graph.node("Gemm", graph.input((CHANNELS, 5)), graph.weight(5, CHANNELS), constant, name="layer")
    assert find(graph.model(x))[1] is None


def test_a_weight_of_integers_is_no_place():
    graph = Builder()
    x = graph.input(("N", 5), kind=TensorProto.INT32)
    assert (
        find(graph.model(graph.node("MatMul", x, graph.constant(np.ones((5, 4)), np.int32), name="layer")))[1] is None
    )


def test_a_new_bias_takes_no_name_of_another():
    graph = Builder()
    x = graph.conv(graph.input(), 3, CHANNELS, bias=False, name="layer")
    x = graph.node("Add", x, graph.constant(np.ones((CHANNELS, 1, 1)), name="layer_bias"))
    model, place = find(graph.model(x))
    rescale(model, place, np.ones(CHANNELS), np.arange(CHANNELS, dtype=float))
    assert model.weights["layer_bias"].shape == (CHANNELS, 1, 1)
    np.testing.assert_array_equal(model.weights["layer_bias_1"], np.arange(CHANNELS))
