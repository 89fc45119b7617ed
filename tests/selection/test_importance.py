"""Importances worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from graphs import Builder, plan_for
from onnx import TensorProto, helper

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import PruneOptions, RunOptions
from lbyl_onnx.selection import CRITERIA
from lbyl_onnx.selection.criteria import RankingTask

FILTERS = [[3, 4], [0, 0], [2, -2], [-6, 8]]
NORMS = [5, 0, np.sqrt(8), 10]
DISTANCES = {(0, 1): 5, (0, 2): np.sqrt(37), (0, 3): np.sqrt(97), (1, 2): np.sqrt(8), (1, 3): 10, (2, 3): np.sqrt(164)}
DISTANCE_SUMS = [sum(value for pair, value in DISTANCES.items() if unit in pair) for unit in range(4)]


def analysed(graph, output):
    model = load(graph.model(output))
    return analyse(model, probe(model))


def scores(graph, output, criterion, seed=0):
    analysis = analysed(graph, output)
    number = next(number for number, group in enumerate(analysis.groups) if group.name == "producer")
    options = PruneOptions(criterion=criterion, seed=seed)
    task = RankingTask(analysis, {number: analysis.groups[number]}, {number: 1}, options, RunOptions("cpu"))
    ((found, ranking),) = CRITERIA[criterion].rank(task).items()
    assert found == number and ranking.errors is None and ranking.importance.dtype == np.float64
    return ranking.importance


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
    with pytest.raises(UsageError, match=r"bn-scale needs .* Conv 'producer' has none .*; use --criterion obs, or l2"):
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
    graph = Builder()
    x = graph.input(("N", 2), kind=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    weight = graph.constant([[3.0, 4], [300, 400], [1, 0], [0, 2]], dtype)
    hidden = graph.node("Gemm", x, weight, transB=1, name="producer")
    output = graph.node("Gemm", hidden, graph.constant(np.ones((4, 3)), dtype))
    np.testing.assert_array_equal(scores(graph, output, "l2"), [5, 500, 1, 2])  # 400 squared exceeds float16


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize(("criterion", "gone"), [("l1", [1, 2]), ("l2", [1, 2]), ("l2-gm", [0, 1])])
def test_weights_behind_a_cast_are_scored_by_their_values(criterion, gone, dtype):
    """The filters of FILTERS that go are those of least norm, or nearest to the others."""
    graph = Builder()
    stored = graph.constant(np.reshape(FILTERS, (4, 2, 1, 1)), dtype)
    weight = graph.node("Cast", graph.node("Identity", stored), to=TensorProto.FLOAT)
    hidden = graph.node("Conv", graph.input(("N", 2, 6, 3)), weight, name="producer")
    output = graph.conv(hidden, 4, 3)
    expected = {"l1": [7, 0, 4, 14], "l2": NORMS, "l2-gm": DISTANCE_SUMS}[criterion]
    np.testing.assert_allclose(scores(graph, output, criterion), expected, rtol=1e-6)
    (choice, _) = plan_for(analysed(graph, output), ratio=0.5, criterion=criterion).choices
    assert np.flatnonzero(choice.removed).tolist() == sorted(np.argsort(expected)[:2].tolist()) == gone


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


def test_computed_weights_are_not_scored():
    """Their group stays whole and says why; others are scored as they are."""
    graph = Builder()
    weight = graph.node("Neg", graph.weight(4, 3, 1, 1))
    hidden = graph.node("Conv", graph.input(), weight, name="computed")
    stored = graph.constant(np.reshape([[3, 4, 0, 0], [0, 0, 0, 1], [0, 0, 2, 0]], (3, 4, 1, 1)), np.float32)
    hidden = graph.node("Conv", graph.node("Relu", hidden), stored, name="producer")
    output = graph.conv(hidden, 3, 2)
    np.testing.assert_array_equal(scores(graph, output, "l2"), [5, 1, 2])
    analysis = analysed(graph, output)
    computed, producer, _ = plan_for(analysis, ratio=0.3, criterion="l2").choices
    assert not computed.removed.any() and computed.criterion is None
    assert computed.reason == "the weights of Conv 'computed' are computed by Neg, not stored"
    assert producer.removed.tolist() == [False, True, False] and producer.criterion == "l2"
    with pytest.raises(ValueError, match="the weight of 'computed' cannot be read"):
        CRITERIA["l2"].rank(
            RankingTask(analysis, {0: analysis.groups[0]}, {0: 1}, PruneOptions(criterion="l2"), RunOptions("cpu"))
        )


EXPECTED = {
    "l1": [7, 0, 4, 14],
    "l2": NORMS,
    "l2-gm": DISTANCE_SUMS,
    "bn-scale": [1, 2, 3, 4],
    "random": np.random.default_rng(0).permutation(4),
}


@pytest.mark.parametrize("criterion", sorted({*CRITERIA} - {"obs"}))
def test_every_criterion_gives_the_number_that_its_definition_says(criterion):
    np.testing.assert_allclose(scores(*convolution(gamma=[1, -2, 3, -4]), criterion), EXPECTED[criterion], rtol=1e-6)
