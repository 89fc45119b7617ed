"""Importances worked out by hand."""

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.channels.folding import LayerReader
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.file import load_model
from lbyl_onnx.selection.importance import CRITERIA, importance

FILTERS = [[3, 4], [0, 0], [2, -2], [-6, 8]]
NORMS = [5, 0, np.sqrt(8), 10]
DISTANCES = {(0, 1): 5, (0, 2): np.sqrt(37), (0, 3): np.sqrt(97), (1, 2): np.sqrt(8), (1, 3): 10, (2, 3): np.sqrt(164)}
DISTANCE_SUMS = [sum(value for pair, value in DISTANCES.items() if unit in pair) for unit in range(4)]


def scores(graph, output, criterion, seed=0):
    model = load_model(graph.model(output))
    group = next(group for group in analyse(model, probe(model)).groups if group.name == "producer")
    return importance(group, LayerReader(model), criterion, np.random.default_rng(seed))


def convolution(bias=(), gamma=None, filters=FILTERS):
    """Conv "producer" with these filters, (units, 2), perhaps a BatchNormalization, and a consumer."""
    graph = Builder()
    weight = graph.constant(np.reshape(filters, (-1, 2, 1, 1)).astype(np.float32))
    biases = [graph.constant(np.asarray(bias, np.float32))] if len(bias) else []
    hidden = graph.node("Conv", graph.input(("N", 2, 6, 3)), weight, *biases, name="producer")
    if gamma is not None:
        rest = [graph.positive(4) for _ in range(3)]
        hidden = graph.node("BatchNormalization", hidden, graph.constant(np.array(gamma, np.float32)), *rest)
    return graph, graph.conv(hidden, len(filters), 3)


@pytest.mark.parametrize("bias", [(), (9, 9, 9, -9)], ids=["no bias", "bias"])
@pytest.mark.parametrize("gamma", [None, [5, 1, -3, 2]], ids=["no BN", "BN"])
@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("l1", [7, 0, 4, 14]), ("l2", NORMS), ("l2-gm", DISTANCE_SUMS)],
)
def test_filters_are_taken_without_bias_and_batch_normalisation(criterion, expected, gamma, bias):
    np.testing.assert_allclose(scores(*convolution(bias, gamma), criterion), expected, rtol=1e-6)


def test_bn_scale_is_the_magnitude_of_gamma():
    np.testing.assert_array_equal(scores(*convolution(gamma=[-2, 0.5, 1, 0]), "bn-scale"), [2, 0.5, 1, 0])


def test_bn_scale_without_batch_normalisation_names_the_node():
    with pytest.raises(UsageError, match=r"bn-scale needs .* Conv 'producer' has none; use --criterion l2"):
        scores(*convolution(), "bn-scale")


def dense(op):
    """Three neurons of one weight each: 3, 0, -1 with biases 4, 2, 0."""
    graph = Builder()
    x = graph.input(("N", 1))
    weight, bias = graph.constant([[3.0, 0, -1]]), graph.constant([4.0, 2, 0])
    if op == "Gemm":
        hidden = graph.node("Gemm", x, weight, bias, name="producer")
    else:
        hidden = graph.node("Add", graph.node("MatMul", x, weight, name="producer"), bias)
    return graph, graph.gemm(hidden, 3, 2)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("l1", [7, 2, 1]),
        ("l2", [5, 2, 1]),
        ("l2-gm", [np.sqrt(13) + np.sqrt(32), np.sqrt(13) + np.sqrt(5), np.sqrt(32) + np.sqrt(5)]),
    ],
)
def test_rows_of_fully_connected_layers_include_the_bias(op, criterion, expected):
    np.testing.assert_allclose(scores(*dense(op), criterion), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_are_scored_in_double_precision(dtype):
    graph, output = convolution(filters=[[3, 4], [300, 400], [1, 0], [0, 2]])
    model = load_model(graph.model(output))
    name = next(node for node in model.proto.graph.node if node.name == "producer").input[1]
    group = analyse(model, probe(model)).groups[0]
    model.replace(name, model.weights[name].astype(dtype))
    found = importance(group, LayerReader(model), "l2", np.random.default_rng())
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [5, 500, 1, 2])  # 400 squared exceeds float16


def test_random_is_a_seeded_permutation():
    first, again, other = (scores(*convolution(filters=[[1, 2]] * 40), "random", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.sort(first), np.arange(40))
    assert (first != other).any()


def residual():
    """Two producers of the same two channels: norms 5, 2 and 12, 1 (each filter has one weight not zero)."""
    graph = Builder()
    x = graph.input(("N", 2, 6, 3))
    first = graph.constant(np.array([[5, 0], [0, 2]], np.float32).reshape(2, 2, 1, 1))
    second = graph.constant(np.array([[0, -12], [1, 0]], np.float32).reshape(2, 2, 1, 1))
    stem = graph.node("Conv", x, first, name="producer")
    joined = graph.node("Add", stem, graph.node("Conv", graph.node("Relu", stem), second, name="second"))
    return graph, graph.conv(joined, 2, 3)


@pytest.mark.parametrize(("criterion", "expected"), [("l1", [17, 3]), ("l2", [13, np.sqrt(5)])])
def test_producers_of_one_group_combine(criterion, expected):
    np.testing.assert_allclose(scores(*residual(), criterion), expected)


def test_a_unit_of_several_filters_combines_them():
    graph = Builder()
    x = graph.input(("N", 6, 6, 3))
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[:, 0, 0, 0] = [3, 1, 4, -2]
    hidden = graph.node("Conv", x, graph.constant(weight), group=2, name="producer")
    output = graph.conv(hidden, 4, 2)
    np.testing.assert_allclose(scores(graph, output, "l2"), [5, np.sqrt(5)])
    np.testing.assert_allclose(scores(graph, output, "l1"), [7, 3])


def test_a_computed_producer_says_nothing():
    graph = Builder()
    weight = graph.node("Neg", graph.weight(4, 3, 1, 1))
    hidden = graph.node("Conv", graph.input(), weight, name="producer")
    np.testing.assert_array_equal(scores(graph, graph.conv(hidden, 4, 2), "l2"), np.zeros(4))


@pytest.mark.parametrize("criterion", sorted({*CRITERIA} - {"obs"}))
def test_every_criterion_gives_one_finite_number_a_unit(criterion):
    found = scores(*convolution(gamma=[1, 2, 3, 4]), criterion)
    assert found.shape == (4,) and found.dtype == np.float64 and np.isfinite(found).all()
