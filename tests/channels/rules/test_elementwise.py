import numpy as np
import pytest
from graphs import Builder, between, check, without_consumed
from onnx import TensorProto

from lbyl_onnx.channels.rules.elementwise import BROADCAST, UNARY

INSIDE_ONE = ["Acos", "Asin", "Atanh", "Tan"]
POSITIVE = ["Acosh", "Log", "Pow", "Reciprocal", "Sqrt"]
INTEGER = ["BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Mod"]
BOOLEAN = ["And", "Not", "Or", "Xor"]


def prepared(graph, x, op):
    """`x` brought to where `op` is defined."""
    if op in INSIDE_ONE:
        return graph.node("Mul", graph.node("Tanh", x), graph.constant(0.9))
    if op in POSITIVE:
        return graph.node("Add", graph.node("Abs", x), graph.constant(1.5))
    if op in INTEGER:
        positive = graph.node("Add", graph.node("Abs", x), graph.constant(1.0))
        return graph.node("Cast", positive, to=TensorProto.UINT8 if op == "BitShift" else TensorProto.INT32)
    if op in BOOLEAN:
        return graph.node("Greater", x, graph.constant(0.0))
    return x


def as_float(graph, x):
    return graph.node("Cast", x, to=TensorProto.FLOAT)


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators_pass_channels(op):
    def middle(graph, x):
        extra = [graph.constant(1.0)] if op == "CastLike" else []
        attributes = {"to": TensorProto.DOUBLE} if op == "Cast" else {}
        return as_float(graph, graph.node(op, prepared(graph, x, op), *extra, **attributes))

    pruned = check(between(middle, opset=24 if op == "Swish" else 20), free=["producer"], units=8)
    assert not pruned.group("producer").coupled


ATTRIBUTES = {"BitShift": {"direction": "RIGHT"}}


@pytest.mark.parametrize("op", sorted(set(BROADCAST) - {"Clip", "PRelu", "Where"}))
def test_two_branches_lose_the_same_channels(op):
    graph = Builder(opset=20)
    x = graph.input()
    left, right = (graph.conv(x, 3, 8, name=name) for name in ("left", "right"))
    operands = [prepared(graph, branch, op) for branch in (left, right)]
    if op == "Div":
        operands[1] = graph.node("Exp", operands[1])
    hidden = as_float(graph, graph.node(op, *operands, **ATTRIBUTES.get(op, {})))
    pruned = check(graph.model(graph.conv(hidden, 8, 4)), free=["left", "right"], units=8)
    assert pruned.group("left") is pruned.group("right")
    assert pruned.group("left").coupled


@pytest.mark.parametrize("op", ["Max", "Mean", "Min", "Sum"])
def test_operators_of_many_inputs_join_them_all(op):
    graph = Builder()
    x = graph.input()
    branches = [graph.conv(x, 3, 8, name=name) for name in ("first", "second", "third")]
    hidden = graph.node(op, *branches, graph.weight(8, 1, 1))
    check(graph.model(graph.conv(hidden, 8, 4)), free=["first", "second", "third"], units=8)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (8, 1, 1), (1, 8, 1, 1), (8, 6, 3), (1, 8, 6, 3)])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Greater", "PRelu"])
def test_constants_of_every_shape_lose_the_channels_too(op, shape):
    def middle(graph, x):
        return as_float(graph, graph.node(op, x, graph.constant(graph.rng.standard_normal(shape))))

    pruned = check(between(middle), free=["producer"], units=8)
    assert not pruned.group("producer").coupled


@pytest.mark.parametrize("op", ["Sub", "Div", "Pow"])
def test_constants_in_front(op):
    def middle(graph, x):
        return graph.node(op, graph.positive(8, 1, 1), prepared(graph, x, "Sqrt"))

    check(between(middle), free=["producer"], units=8)


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_division_by_a_constant_per_channel(op):
    def middle(graph, x):
        return graph.node(op, x, graph.positive(8, 1, 1), **({"fmod": 1} if op == "Mod" else {}))

    check(between(middle), free=["producer"], units=8, reference=without_consumed)


def test_constant_over_a_fixed_batch():
    graph = Builder()
    hidden = graph.conv(graph.input((2, 3, 6, 3)), 3, 8, name="producer")
    hidden = graph.node("Add", hidden, graph.weight(2, 8, 6, 3))
    check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)


def test_clip_with_bounds():
    def middle(graph, x):
        return graph.node("Clip", x, graph.constant(-0.5), graph.constant(0.8))

    check(between(middle), free=["producer"])


def test_clip_without_a_lower_bound():
    check(between(lambda graph, x: graph.node("Clip", x, "", graph.constant(0.3))), free=["producer"])


def test_where_with_a_condition_per_channel():
    def middle(graph, x):
        condition = graph.constant(np.arange(8).reshape(8, 1, 1) % 2 == 0)
        return graph.node("Where", condition, x, graph.weight(1, 8, 1, 1))

    check(between(middle), free=["producer"], units=8)


def test_where_between_two_branches():
    graph = Builder()
    x = graph.input()
    left, right = (graph.conv(x, 3, 8, name=name) for name in ("left", "right"))
    condition = graph.node("Less", left, right)
    hidden = graph.node("Where", condition, left, right)
    check(graph.model(graph.conv(hidden, 8, 4)), free=["left", "right"], units=8)


def squeeze_and_excite(graph, x, channels):
    gate = graph.node("GlobalAveragePool", x)
    gate = graph.node("Relu", graph.conv(gate, channels, 4, (1, 1), name="squeeze"))
    gate = graph.node("Sigmoid", graph.conv(gate, 4, channels, (1, 1), name="excite"))
    return graph.node("Mul", x, gate)


def test_a_gate_per_channel_is_coupled_with_what_it_gates():
    pruned = check(
        between(lambda graph, x: squeeze_and_excite(graph, x, 8)),
        free=["producer", "excite", "squeeze"],
        units=8,
    )
    assert pruned.group("producer") is pruned.group("excite")
    assert not pruned.group("squeeze").coupled


def test_a_gate_per_pixel_keeps_its_single_channel():
    def gated(graph, x):
        return graph.node("Mul", graph.node("Sigmoid", graph.conv(x, 8, 1, name="gate")), x)

    check(between(gated), free=["producer"], frozen={"gate": "broadcasts them|single unit"}, units=8)


def test_a_sum_with_its_own_channels_in_another_order():
    def middle(graph, x):
        return graph.node("Add", x, graph.node("Gather", x, graph.constant(list(range(8))[::-1]), axis=1))

    pruned = check(between(middle), free=["producer"], units=4)
    assert pruned.group("producer").coupled


def test_a_sum_with_the_input_stays():
    graph = Builder()
    x = graph.input(("N", 8, 6, 3))
    hidden = graph.node("Add", graph.conv(x, 8, 8, name="producer"), x)
    check(
        graph.model(graph.conv(hidden, 8, 4)),
        frozen={"producer": "Add 'add_1' joins them with an axis of 'x' that cannot shrink"},
    )


@pytest.mark.parametrize("opset", [9, 15])
def test_batch_normalization(opset):
    pruned = check(
        between(lambda graph, x: graph.node("Relu", graph.batch_norm(x, 8)), opset=opset),
        free=["producer"],
        units=8,
    )
    assert not pruned.group("producer").coupled


def test_batch_normalization_of_the_input():
    graph = Builder()
    hidden = graph.conv(graph.batch_norm(graph.input(), 3), 3, 8, name="producer")
    check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)


def test_batch_normalization_in_training_mode_stays():
    def middle(graph, x):
        inputs = [graph.positive(8), graph.weight(8), graph.weight(8), graph.positive(8)]
        return graph.nodes("BatchNormalization", [x, *inputs], 3, training_mode=1)[0]

    check(between(middle), frozen={"producer": "training mode"})


def test_one_scale_for_two_normalisations_ties_their_channels():
    graph = Builder()
    x = graph.input()
    scale = graph.positive(8)
    branches = []
    for name in ("left", "right"):
        statistics = [scale, graph.weight(8), graph.weight(8), graph.positive(8)]
        branches.append(graph.node("BatchNormalization", graph.conv(x, 3, 8, name=name), *statistics))
    consumed = [graph.conv(branch, 8, 4) for branch in branches]
    pruned = check(graph.model(*consumed), free=["left", "right"], units=8)
    assert pruned.group("left") is pruned.group("right")


def test_instance_normalization():
    def middle(graph, x):
        return graph.node("InstanceNormalization", x, graph.positive(8), graph.weight(8))

    check(between(middle), free=["producer"], units=8)


@pytest.mark.parametrize(
    ("op", "biases"), [("Gelu", 0), ("QuickGelu", 0), ("FastGelu", 0), ("FastGelu", 1), ("BiasGelu", 1)]
)
def test_activations_of_onnxruntime(op, biases):
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node(op, hidden, *(graph.weight(8) for _ in range(biases)), domain="com.microsoft")
    check(graph.model(graph.matmul(hidden, 8, 3)), free=["producer"], units=8)


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantisation_of_activations(per_channel):
    def middle(graph, x):
        count = (8,) if per_channel else ()
        scale = graph.constant(graph.rng.uniform(0.01, 0.02, count))
        zero = graph.constant(np.full(count, 5), np.int8)
        hidden = graph.node("QuantizeLinear", x, scale, zero, axis=1)
        return graph.node("DequantizeLinear", hidden, scale, zero, axis=1)

    check(between(middle), free=["producer"], units=8, reference=without_consumed)


def test_quantised_weights():
    graph = Builder()
    stored = graph.constant(graph.rng.integers(-9, 9, (8, 3, 3, 3)), np.int8)
    scale = graph.constant(graph.rng.uniform(0.1, 0.2, 8))
    weight = graph.node("DequantizeLinear", stored, scale, axis=0)
    hidden = graph.node("Conv", graph.input(), weight, name="producer")
    pruned = check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)
    assert pruned.shape(stored) == (4, 3, 3, 3) and pruned.shape(scale) == (4,)


def test_weights_in_blocks_stay():
    graph = Builder(opset=21)
    stored = graph.constant(graph.rng.integers(-9, 9, (6, 8)), np.int8)
    scale = graph.constant(graph.rng.uniform(0.1, 0.2, (3, 8)))
    weight = graph.node("DequantizeLinear", stored, scale, axis=0, block_size=2)
    hidden = graph.node("MatMul", graph.input(("N", 6)), weight, name="producer")
    pruned = check(graph.model(graph.gemm(hidden, 8, 4, name="consumer")), frozen={"consumer": "output"})
    assert len(pruned.analysis.groups) == 1


def test_dropout_passes_channels_and_its_mask_too():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    kept, mask = graph.nodes("Dropout", [hidden], 2)
    hidden = graph.node("Mul", kept, graph.node("Cast", mask, to=TensorProto.FLOAT))
    check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)
