"""Random graphs drawn from the rule table: surgery leaves what masking leaves, and restoration a model that runs."""

import pytest
from graphs import assert_equivalent, prune
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipes import OLD, RECIPES, STATIC, Net
from uniform import compress

from lbyl_onnx.channels.rules import RULES
from lbyl_onnx.errors import NothingToRemove

ELSEWHERE = {
    ("", "Upsample"): "was removed in opset 10",
    ("", "SimplifiedLayerNormalization"): "is onnxruntime's own, which the checker refuses in this domain",
    ("com.microsoft", "BiasAdd"): "runs on GPUs only",
}
"""Operators with a rule and without a recipe, and why."""


def random_graph(seed, operators, dynamic):
    """Each operator in turn reads one of the signals there are; the last signals are concatenated and read."""
    net = Net(24 if OLD.isdisjoint(operators) else 21, seed, "N" if dynamic and STATIC.isdisjoint(operators) else 2)
    net.signals.append(net.project(net.signals[0], 8, name="stem"))
    for domain, op in operators:
        net.signals.append(RECIPES[domain, op](net, op, net.pick(net.signals[1:])))
    joined = net.node("Concat", *(signal.name for signal in net.signals[-3:]), axis=1)
    channels = sum(signal.channels for signal in net.signals[-3:])
    return net.model(net.conv(joined, channels, 3, (1, 1), name="last"))


def test_every_operator_with_a_rule_has_a_recipe():
    assert RECIPES.keys().isdisjoint(ELSEWHERE)
    assert RECIPES.keys() | ELSEWHERE.keys() == RULES.keys()


@pytest.mark.parametrize("operator", sorted(RECIPES), ids=lambda key: ":".join(key).strip(":"))
def test_every_operator(operator):
    for seed in range(2):
        assert_equivalent(prune(random_graph(seed, [operator], dynamic=True), seed=seed), tolerance=1e-3)


def of_one_opset():
    """Lists of operators, of which some are old or others may be new."""
    new = {("", op) for op in ("Attention", "RotaryEmbedding", "RMSNormalization", "Swish")}
    choices = [sorted(RECIPES.keys() - left_out) for left_out in (OLD, new)]
    return st.one_of(*(st.lists(st.sampled_from(choice), min_size=2, max_size=7) for choice in choices))


def drawn(examples):
    """Run a test on so many draws of what `random_graph` takes."""
    draw = given(seed=st.integers(0, 2**16), operators=of_one_opset(), dynamic=st.booleans())
    bounds = settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    return lambda test: bounds(draw(test))


@drawn(100)
def test_random_graphs(seed, operators, dynamic):
    assert_equivalent(prune(random_graph(seed, operators, dynamic), seed=seed), tolerance=1e-3)


@pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
@drawn(25)
def test_random_graphs_are_restored(allocation, seed, operators, dynamic):
    """The defaults choose and restore, and the result passes the validation; where outputs answer to nothing (IsInf of
    numbers), it is that of the original."""
    try:
        result = compress(random_graph(seed, operators, dynamic), 0.4, scope="all", samples=16, allocation=allocation)
    except NothingToRemove:
        return
    outputs, warnings = result.report.validation.outputs, result.report.warnings
    assert outputs or result.report.validation.silent_outputs
    assert not outputs or not any("measured" in line for line in warnings)
