"""What the analysis of a large graph does, in steps and copies; `benchmarks/scale.py` measures seconds and bytes."""

import importlib.util

import numpy as np
import pytest
from conftest import ROOT

from lbyl_onnx.channels import propagation as trace
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.model.initializers import unshare
from lbyl_onnx.model.reading import load


@pytest.fixture(scope="module")
def network():
    """`benchmarks/scale.py`'s builder of residual networks of a given number of nodes and channels."""
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    return scale.network


def analysed(proto):
    model = unshare(load(proto))[0]
    return analyse(model, probe(model))


def test_a_graph_of_5000_nodes(network):
    proto = network(5000, 4)
    analysis = analysed(proto)
    producers = [axis for group in analysis.groups for axis in group.producers]
    assert len(proto.graph.node) >= 5000
    assert len(producers) == sum(node.op_type == "Conv" for node in proto.graph.node)
    stream = max(analysis.groups, key=lambda group: len(group.producers))
    assert stream.frozen_reason is None and stream.coupled and len(stream.consumers) > 500


def test_labels_and_equalities_grow_with_the_graph(network):
    small, large = (analysed(network(nodes, 4)) for nodes in (300, 600))
    for count in (lambda each: each.classes.class_of.size, lambda each: len(each.labelling.labels._equal)):
        assert 1.8 * count(small) < count(large) < 2.2 * count(small)


def test_one_pass_where_nothing_is_ambiguous(network, monkeypatch):
    passes = []
    traced = trace._trace
    monkeypatch.setattr(trace, "_trace", lambda *arguments: passes.append(1) or traced(*arguments))
    analysed(network(100, 4))
    assert len(passes) == 1


def test_weights_are_not_copied(network):
    model = load(network(100, 16))
    working = unshare(model)[0]
    analysis = analyse(working, probe(working))
    for name, array in model.weights.items():
        assert np.shares_memory(array, analysis.model.weights[name])
