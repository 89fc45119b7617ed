"""Operators that onnxruntime's own optimiser writes into a model."""

import pytest
from graphs import Builder, between, check
from uniform import compress

MICROSOFT = "com.microsoft"


@pytest.mark.parametrize("added", [False, True])
def test_fused_conv(added):
    graph = Builder()
    x = graph.input(("N", 3, 6, 4))
    inputs = [x, graph.weight(8, 3, 3, 3), graph.weight(8)]
    if added:
        inputs.append(graph.conv(x, 3, 8, name="other"))
    attributes = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "activation": "Relu"}
    hidden = graph.node("FusedConv", *inputs, domain=MICROSOFT, name="producer", **attributes)
    consumer = graph.weight(4, 8, 3, 3), graph.weight(4)
    proto = graph.model(graph.node("FusedConv", hidden, *consumer, domain=MICROSOFT, **attributes))
    pruned = check(proto, free=["producer"], units=8)
    assert pruned.group("producer").coupled == added


@pytest.mark.parametrize("transposed", [0, 1])
def test_fused_matmul_with_a_weight(transposed):
    graph = Builder()
    x = graph.input(("N", 5, 6))
    first, second = (6, 8), (8, 3)
    weights = [graph.weight(*shape[:: -1 if transposed else 1]) for shape in (first, second)]
    hidden = graph.node("FusedMatMul", x, weights[0], transB=transposed, alpha=0.5, domain=MICROSOFT, name="producer")
    out = graph.node("FusedMatMul", hidden, weights[1], transB=transposed, domain=MICROSOFT)
    check(graph.model(out), free=["producer"], units=8)


@pytest.mark.parametrize("transposed", ["transA", "transB"])
def test_fused_matmul_of_two_activations(transposed):
    """Queries times keys shares channels; turned round, channels are what is left and the places are summed over."""
    graph = Builder()
    x = graph.input(("N", 5, 6))
    left, right = (graph.matmul(x, 6, 8, name=name) for name in ("left", "right"))
    product = graph.node("FusedMatMul", left, right, domain=MICROSOFT, name="product", **{transposed: 1})
    if transposed == "transA":
        product = graph.matmul(product, 8, 3)
        check(graph.model(product), free=["right"], frozen={"left": "output .* of the model"}, units=8)
    else:
        check(graph.model(product), free=["left", "right"], units=8)


def test_fused_matmul_with_a_transposed_batch_stays():
    graph = Builder()
    x = graph.matmul(graph.input((5, 5, 6)), 6, 8, name="producer")
    product = graph.node("FusedMatMul", x, x, transBatchA=1, transB=1, domain=MICROSOFT)
    check(graph.model(product), frozen={"producer": "transposes its batch"})


def test_fused_gemm():
    graph = Builder()
    weights = graph.weight(6, 8), graph.weight(8)
    hidden = graph.node("FusedGemm", graph.input(("N", 6)), *weights, activation="Relu", domain=MICROSOFT, name="first")
    check(graph.model(graph.gemm(hidden, 8, 3)), free=["first"], units=8)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_sum_and_normalisation_in_one(op):
    graph = Builder()
    x = graph.input(("N", 5, 6))
    streams = [graph.matmul(x, 6, 8, name=name) for name in ("left", "right")]
    normed = graph.node(op, *streams, graph.positive(8), domain=MICROSOFT, name="norm")
    hidden = graph.node("Relu", graph.matmul(normed, 8, 10, name="inner"))
    reason = f"{op} 'norm' normalises over them"
    check(graph.model(graph.matmul(hidden, 10, 3)), free=["inner"], frozen={"left": reason, "right": reason})


def test_others_have_no_rule():
    def middle(graph, x):
        x = graph.node("Transpose", x, perm=[0, 2, 3, 1])
        x = graph.node("QuantizeLinear", x, graph.constant(0.1))
        x = graph.node("NhwcMaxPool", x, kernel_shape=[1, 1], domain=MICROSOFT, name="odd")
        x = graph.node("DequantizeLinear", x, graph.constant(0.1))
        return graph.node("Transpose", x, perm=[0, 3, 1, 2])

    check(between(middle), frozen={"producer": "operator NhwcMaxPool 'odd' has no rule"})


@pytest.mark.parametrize("op", ["FusedConv", "GRU", "Attention"])
def test_consumers_that_cannot_be_measured_or_fitted_are_compressed_without(op):
    graph = Builder()
    if op == "FusedConv":
        hidden = graph.conv(graph.input((2, 3, 6, 4)), 3, 8, name="producer")
        weights = graph.weight(4, 8, 3, 3), graph.weight(4)
        out = graph.node(op, hidden, *weights, kernel_shape=[3, 3], activation="Relu", domain=MICROSOFT)
    else:
        hidden = graph.matmul(graph.input((5, 2, 6)), 6, 8, name="producer")
        if op == "GRU":
            out = graph.node(op, hidden, graph.weight(1, 9, 8), graph.weight(1, 9, 3), hidden_size=3)
        else:
            out = graph.node(op, hidden, graph.weight(8, 12), graph.weight(12), num_heads=2, domain=MICROSOFT)
    result = compress(graph.model(out), 0.5, scope="all", validation=False)
    group = next(group for group in result.report.groups if group.name == "producer")
    assert group.units_after == 4 and group.outcome.restored is None and group.outcome.note
