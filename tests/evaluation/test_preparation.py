"""One preparation, several results: each is what a run of its own would have made."""

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.budgets import budgets
from lbyl_onnx.compression import compress, compress_prepared
from lbyl_onnx.errors import NothingToRemove
from lbyl_onnx.evaluation import preparation, validation
from lbyl_onnx.evaluation.preparation import Preparation
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import Options, PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.progress import Telling

SAMPLES = 32


@pytest.fixture(scope="module")
def model():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input((1, 3, 8, 8)), 3, 32, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 32, 24, name="second"))
    hidden = graph.node("Relu", graph.conv(hidden, 24, 16, name="third"))
    return load(graph.model(graph.conv(hidden, 16, 4)))


def prepared(model, evaluation=None):
    options = Options(PruneOptions(), SampleOptions(samples=SAMPLES), RunOptions("cpu", 1))
    return Preparation(model, options, "auto", evaluation, Telling(None))


def content(result):
    return result.model.SerializeToString(deterministic=True)


def alone(model, **target):
    return compress(model, target=target, samples=SAMPLES, provider="cpu", threads=1, validation=False)


def test_results_are_those_of_separate_runs_in_any_order(model):
    """The heaviest first: it needs heavier cuts to be measured, which must not change the lighter ones."""
    asked = [{"macs": 0.15}, {"macs": 0.8}, {"macs": 0.5, "params": 0.6}, {"macs": 0.8}]
    shared = prepared(model)
    results = [compress_prepared(shared, budgets(target), timed=False) for target in asked]
    for target, result in zip(asked, results, strict=True):
        separate = alone(model, **target)
        assert content(result) == content(separate), target
        assert result.report.options.prune == separate.report.options.prune
        assert result.report.groups == separate.report.groups and result.report.output == separate.report.output
        assert result.report.warnings == separate.report.warnings
    assert len({content(result) for result in results}) == 3


def test_what_one_budget_changes_does_not_reach_the_next(model):
    shared = prepared(model)
    shared.planner.latency_factor = 3.0
    assert shared.planner.coarsen()
    result = compress_prepared(shared, budgets({"macs": 0.8}), timed=False)
    assert shared.planner.latency_factor == 1.0
    assert content(result) == content(alone(model, macs=0.8))


def test_a_budget_that_is_out_of_reach_does_not_spoil_the_next(model):
    shared = prepared(model)
    with pytest.raises(NothingToRemove, match="macs cannot be brought to"):
        compress_prepared(shared, budgets({"macs": 1e-6}), timed=False)
    result = compress_prepared(shared, budgets({"macs": 0.8}), timed=False)
    assert content(result) == content(alone(model, macs=0.8))


def test_sensitivities_are_measured_once(model, monkeypatch):
    made = []
    planner = preparation.Planner

    def counted(*arguments):
        made.append(arguments)
        return planner(*arguments)

    monkeypatch.setattr(preparation, "Planner", counted)
    shared = prepared(model)
    assert made == []
    for share in (0.9, 0.7):
        compress_prepared(shared, budgets({"macs": share}), timed=False)
    assert len(made) == 1


def test_without_timing_no_clock_is_asked(model, monkeypatch):
    def asked(*_):
        raise AssertionError("a latency was measured")

    monkeypatch.setattr(validation, "latencies", asked)
    found = compress_prepared(prepared(model), budgets({"macs": 0.8}), timed=False).report
    assert np.isnan(found.validation.latency_before_ms) and np.isnan(found.validation.speedup)
    assert found.warnings == () and found.validation.verdict is not None
