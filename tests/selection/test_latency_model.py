"""Predicted times, from made-up ones: no test depends on how fast anything is."""

from dataclasses import replace

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.channels.costs import ChannelAxes
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.macs import node_macs
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import ModelError
from lbyl_onnx.model.graph import GraphIndex
from lbyl_onnx.model.profiling import Kernel, Profile
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import RunOptions
from lbyl_onnx.selection import latency_model
from lbyl_onnx.selection.latency_model import LatencyModel

CPU = RunOptions("cpu", 1)
BLOCK = 16


def chain():
    """Three convolutions, of which two lose filters; the second one's is followed by a Relu, then all is pooled."""
    graph = Builder()
    hidden = graph.conv(graph.input((1, 3, 8, 8)), 3, 64, name="first")
    hidden = graph.node("Relu", graph.conv(hidden, 64, 96, name="second"), name="after")
    return graph.model(graph.conv(graph.node("GlobalAveragePool", hidden, name="pool"), 96, 8, (1, 1), name="third"))


def analysed(proto):
    model = load(proto)
    return analyse(model, probe(model))


def per_mac(node, shapes):
    return 1e-3 + 1e-8 * node_macs(node, shapes)


def made_up(cost, also=(), speed=lambda: 1.0):
    """Stands in for `profile`: every node of the cut model costs what `cost` says of it and its shapes, times what the
    machine's speed is at the moment; the first model is the reference."""
    totals = []

    def profile(model, whole, feed, options):
        shapes = {name: facts.shape for name, facts in probe(model).tensors.items()}
        made = [
            Kernel(node.name, (shapes[node.input[0]],), (shapes[node.output[0]],), cost(node, shapes))
            for node in model.proto.graph.node
        ]
        now = speed()
        kernels = tuple(replace(kernel, milliseconds=now * kernel.milliseconds) for kernel in [*also, *made])
        totals.append(sum(kernel.milliseconds for kernel in kernels) / now)
        return Profile(kernels, now * totals[-1], now * totals[0])

    return profile


@pytest.fixture
def measured(monkeypatch):
    """Makes a LatencyModel of the chain from made-up times."""

    def make(cost=per_mac, proto=None, movable=True, **others):
        monkeypatch.setattr(latency_model, "profile", made_up(cost, **others))
        monkeypatch.setattr(latency_model, "block_of", lambda options: BLOCK)
        analysis = analysed(proto or chain())
        free = np.array([group.frozen_reason is None for group in analysis.groups], bool)
        return LatencyModel(analysis, CPU, free & movable)

    return make


def predicted(model, *removed):
    return float(model.milliseconds(np.array([*removed, 0])) / model.milliseconds(np.zeros(len(removed) + 1)))


def test_nothing_removed_takes_what_the_whole_model_took(measured):
    model = measured(lambda node, shapes: {"first": 2.0, "after": 1.0, "third": 4.0}.get(node.name, 0.0))
    assert model.milliseconds(np.zeros(3)) == pytest.approx(7.0)


def test_leading_axes_are_candidates(measured):
    model = measured()
    removed = np.random.default_rng(0).integers(0, 60, (2, 5, 3)) * [1, 1, 0]
    found = model.milliseconds(removed)
    assert found.shape == (2, 5) and found.dtype == np.float64
    np.testing.assert_allclose(found, [[model.milliseconds(each) for each in row] for row in removed], rtol=1e-9)
    assert model.milliseconds(np.zeros(3)).shape == ()


def test_time_in_proportion_to_work_is_predicted_whatever_goes(measured, monkeypatch):
    """Kernels that take what the model holds for work are met, but for samples that it takes to be padded."""
    monkeypatch.setattr(latency_model, "MACS_PER_ELEMENT", 0.0)
    monkeypatch.setattr(latency_model, "MACS_PER_REGION", 1e-9)
    model = measured(lambda node, shapes: 1e-6 * node_macs(node, shapes))
    for first, second in [(16, 0), (0, 32), (48, 16), (32, 80)]:
        left = 9 * 64 * (3 * (64 - first) + (64 - first) * (96 - second)) + (96 - second) * 8
        whole = 9 * 64 * (3 * 64 + 64 * 96) + 96 * 8
        assert predicted(model, first, second) == pytest.approx(left / whole, rel=0.01)


def test_a_group_changes_only_the_layers_that_it_touches(measured):
    """The second group's layers cost nothing here, so that it can change nothing."""
    model = measured(lambda node, shapes: float(node.name == "first"))
    assert predicted(model, 0, 64) == pytest.approx(1)
    assert predicted(model, 0, 1) == pytest.approx(1)
    late = measured(lambda node, shapes: float(node.name == "third") * shapes["pool"][1])
    assert predicted(late, 48, 0) == pytest.approx(1)
    assert predicted(late, 0, 64) < 0.6


def test_channels_that_do_not_divide_are_told_apart(measured):
    """Kernels that take three times as long for an odd number of filters: an odd cut is predicted to be slower."""

    def cost(node, shapes):
        odd = any(length % 4 for length in shapes[node.output[0]][1:2])
        return per_mac(node, shapes) * (3 if odd else 1)

    model = measured(cost)
    assert predicted(model, 0, 32) < 1 < predicted(model, 0, 33)
    assert predicted(model, 0, 33) == pytest.approx(3 * predicted(model, 0, 32), rel=0.3)


def test_what_follows_a_layer_in_the_same_shape_counts_for_it(measured):
    """A fused activation has no time of its own, whichever of both names the kernel has."""
    apart = measured(lambda node, shapes: 1e-5 * shapes[node.output[0]][1] * (node.name == "after"))
    joined = measured(lambda node, shapes: 1e-5 * shapes[node.output[0]][1] * (node.name == "second"))
    for removed in [(0, 16), (16, 33), (5, 80)]:
        assert predicted(apart, *removed) == pytest.approx(predicted(joined, *removed))


@pytest.mark.parametrize(
    "name",
    [
        *("second", "second_nchwc", "second_nchwc_token_3", "after_nchwc", "fused second"),
        *("InsertedPrecisionFreeCast_second", "InsertedPrecisionFreeCast_after_nchwc"),
    ],
)
def test_kernels_are_found_by_the_names_that_onnxruntime_makes_up(name):
    analysis = analysed(chain())
    regions = latency_model._regions(analysis, ChannelAxes(analysis))
    assert regions.of == [0, 1, 1, 2, 3]
    assert latency_model._region(Kernel(name, (), (), 1.0), GraphIndex(analysis.model), regions) == 1
    assert latency_model._region(Kernel("ReorderInput", (), (), 1.0), GraphIndex(analysis.model), regions) is None


def test_a_change_of_layout_counts_for_what_takes_it(measured):
    """The kernel is listed first and makes what the third layer takes; where nothing takes it, it is constant."""
    taken = Kernel("ReorderOutput", (), ((1, 96, 1, 1),), 5.0)
    model = measured(lambda node, shapes: 0.0, also=(taken,), movable=np.array([True, False, False]))
    assert predicted(model, 32, 0) == pytest.approx(1)
    unknown = Kernel("Memcpy", (), ((5, 5),), 5.0)
    model = measured(lambda node, shapes: 0.0, also=(unknown,))
    assert predicted(model, 32, 32) == pytest.approx(1)


def test_a_machine_that_gets_slower_meanwhile_changes_nothing(measured):
    """Times count by what the whole model takes at the same moment."""
    steady = measured()
    rng = np.random.default_rng(0)
    drifting = measured(speed=lambda: rng.uniform(1, 3))
    for removed in [(16, 0), (3, 32), (48, 64)]:
        assert predicted(drifting, *removed) == pytest.approx(predicted(steady, *removed))


def test_samples_start_with_nothing_and_leave_what_must_stay(measured):
    analysis = analysed(chain())
    movable = np.array([True, False, False])
    removed = latency_model._samples(analysis, movable, BLOCK, np.random.default_rng(0))
    assert removed.shape == (latency_model.SAMPLES + 1, 3) and not removed[0].any()
    assert (removed[:, 1:] == 0).all() and (removed >= 0).all() and (removed[:, 0] < 64).all()
    assert len(np.unique(removed[:, 0])) > latency_model.SAMPLES / 2


def test_cut_models_that_do_not_run_are_left_out(measured, monkeypatch):
    whole = measured()
    real, calls = latency_model.profile, []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise ModelError("no")
        return real(*arguments)

    monkeypatch.setattr(latency_model, "profile", sometimes)
    analysis = analysed(chain())
    model = LatencyModel(analysis, CPU, np.array([True, True, False]))
    assert len(calls) == latency_model.SAMPLES + 1
    assert predicted(model, 16, 16) == pytest.approx(predicted(whole, 16, 16), rel=0.05)


def test_a_model_that_does_not_run_at_all_is_refused(monkeypatch):
    def refuse(*arguments):
        raise ModelError("no")

    monkeypatch.setattr(latency_model, "profile", refuse)
    with pytest.raises(ModelError, match="no"):
        LatencyModel(analysed(chain()), CPU, np.array([True, True, False]))


def test_real_kernels_are_found(monkeypatch):
    """onnxruntime's own profile of the chain: all of its time falls to regions, but for a change of layout."""
    monkeypatch.setattr(latency_model, "SAMPLES", 3)
    found = []
    real = latency_model._times
    monkeypatch.setattr(latency_model, "_times", lambda *arguments: found.append(real(*arguments)) or found[-1])
    model = LatencyModel(analysed(chain()), CPU, np.array([True, True, False]))
    times = np.array(found)
    assert times.shape == (4, 5) and (times[:, :2] > 0).all()
    assert (times[:, -1] <= 0.2 * times.sum(axis=1)).all()
    assert model.milliseconds(np.zeros(3)) > 0
