"""One preparation, several results: each is what a run of its own would have made."""

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.budgets import budgets
from lbyl_onnx.compression import compress, compress_prepared
from lbyl_onnx.errors import NothingToRemove
from lbyl_onnx.evaluation import preparation, validation
from lbyl_onnx.evaluation.advice import damage_warnings
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
        compared = damage_warnings(result.report.validation, result.report.options)
        assert result.report.warnings == (*separate.report.warnings, *compared)
    assert len({content(result) for result in results}) == 3


def reader(height=48):
    """It folds the height of its images, which is declared dynamic, into channels."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, "H", 16)), 3, 16, name="first"))
    columns = graph.node("Reshape", graph.conv(hidden, 16, 8), graph.constant([0, 8 * height, 16]))
    return load(graph.model(graph.conv(columns, 8 * height, 4, (1,))))


def test_sizes_that_the_model_runs_at_are_found_and_told():
    result = compress(reader(), 0.3, samples=16, provider="cpu")
    assert result.report.options.samples.shapes == {"x": (1, 3, 48, 16)} and result.report.output.macs > 0
    assert [line for line in result.report.warnings if "--shape x:1x3x48x16" in line]
    named = compress(reader(), 0.3, samples=16, provider="cpu", shapes={"x": (1, 3, 48, 16)})
    assert content(named) == content(result)
    assert not [line for line in named.report.warnings if "--shape" in line]


def test_a_result_of_which_nothing_is_known_says_so():
    """Its output is a logarithm of what is negative."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input((1, 3, 8, 8)), 3, 32, name="first"))
    squared = graph.node("Relu", graph.conv(hidden, 32, 4))
    model = load(graph.model(graph.node("Log", graph.node("Sub", graph.node("Neg", squared), graph.constant(1.0)))))
    with pytest.raises(NothingToRemove, match="no loss can be told"):
        compress(model, samples=SAMPLES, provider="cpu")
    report = compress(model, 0.5, samples=SAMPLES, provider="cpu").report
    assert report.validation.verdict is None and len(report.validation.silent_outputs) == 1
    assert any("l2 was used instead" in line for line in report.warnings)
    assert any("nothing is known of the result" in line for line in report.warnings)


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
