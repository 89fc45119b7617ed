"""Costs of a model with fewer units equal those of the model that was cut."""

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.channels.costs import CostModel
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.evaluation.inspection import file_report
from lbyl_onnx.model.reading import load


def chain(graph):
    hidden = graph.node("Relu", graph.batch_norm(graph.conv(graph.input(), 3, 8), 8))
    return graph.conv(graph.node("Relu", graph.conv(hidden, 8, 12)), 12, 4)


def residual(graph):
    stem = graph.conv(graph.input(), 3, 8)
    branch = graph.conv(graph.node("Relu", graph.conv(stem, 8, 6)), 6, 8)
    return graph.conv(graph.node("Add", stem, branch), 8, 4)


def concatenated(graph):
    stem = graph.conv(graph.input(), 3, 8)
    joined = graph.node("Concat", graph.conv(stem, 8, 5), graph.conv(stem, 8, 7), stem, axis=1)
    return graph.conv(joined, 20, 4, (1, 1))


def depthwise(graph):
    hidden = graph.conv(graph.input(), 3, 8)
    hidden = graph.conv(hidden, 8, 8, group=8)
    return graph.conv(hidden, 8, 4, (1, 1))


def flattened(graph):
    hidden = graph.conv(graph.input(), 3, 8)
    hidden = graph.gemm(graph.node("Flatten", hidden), 8 * 6 * 3, 10)
    return graph.matmul(graph.node("Relu", hidden), 10, 4)


def transposed(graph):
    weight = graph.weight(8, 6, 3, 3)
    hidden = graph.node("ConvTranspose", graph.conv(graph.input(), 3, 8), weight, pads=[1] * 4)
    return graph.conv(hidden, 6, 4)


NETWORKS = (chain, residual, concatenated, depthwise, flattened, transposed)


def analysed(network):
    graph = Builder()
    model = load(graph.model(network(graph)))
    return analyse(model, probe(model))


def kept_without(analysis, removed, rng):
    kept = np.ones(analysis.classes.count, bool)
    for group, count in zip(analysis.groups, removed, strict=True):
        kept[rng.permutation(group.classes[group.free])[:count]] = False
    return kept


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@given(data=st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_costs_are_those_of_the_cut_model(network, data):
    analysis = analysed(network)
    most = [min(int(group.free.sum()), group.units - 1) for group in analysis.groups]
    assert max(most) > 0
    removed = [data.draw(st.integers(0, count)) for count in most]
    kept = kept_without(analysis, removed, np.random.default_rng(data.draw(st.integers(0, 99))))
    smaller = cut(analysis, kept)
    report, costs = file_report(analysis, kept, smaller), CostModel(analysis)
    assert costs.macs(np.array(removed)) == report.macs
    assert costs.parameters(np.array(removed)) == report.parameters
    framing = 16 * len(smaller.weights)
    assert costs.bytes(np.array(removed)) == pytest.approx(smaller.bytes, abs=framing)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_nothing_removed_costs_what_the_model_does(network):
    analysis = analysed(network)
    none, costs = np.zeros(len(analysis.groups)), CostModel(analysis)
    report = file_report(analysis, np.ones(analysis.classes.count, bool), analysis.model)
    assert (costs.macs(none), costs.parameters(none)) == (report.macs, report.parameters)
    assert costs.bytes(none) == analysis.model.bytes


def test_leading_axes_are_candidates():
    analysis = analysed(residual)
    removed = np.random.default_rng(0).integers(0, 4, (2, 5, len(analysis.groups)))
    costs = CostModel(analysis)
    for cost in (costs.macs, costs.parameters, costs.bytes):
        found = cost(removed)
        assert found.shape == (2, 5) and found.dtype == np.float64
        np.testing.assert_array_equal(found, [[cost(each) for each in row] for row in removed])


def test_a_producer_that_loses_filters_makes_its_consumer_cheaper():
    analysis, none = analysed(chain), np.zeros(3)
    assert [group.units for group in analysis.groups] == [8, 12, 4]
    costs, pixels = CostModel(analysis), 6 * 3
    assert costs.macs(none) == 9 * pixels * (3 * 8 + 8 * 12 + 12 * 4)
    assert costs.macs(np.array([2, 0, 0])) == 9 * pixels * (3 * 6 + 6 * 12 + 12 * 4)
    assert costs.macs(np.array([2, 3, 0])) == 9 * pixels * (3 * 6 + 6 * 9 + 9 * 4)


def test_a_model_without_groups_costs_what_it_does():
    graph = Builder()
    analysis = analyse(model := load(graph.model(graph.node("Relu", graph.input()))), probe(model))
    assert len(analysis.groups) == 0
    assert CostModel(analysis).macs(np.zeros((3, 0))).tolist() == [0, 0, 0]
