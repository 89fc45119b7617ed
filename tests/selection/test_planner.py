"""Plans within budgets, and that what is promised of a plan's costs holds for the model that is cut by it."""

import numpy as np
import pytest
from graphs import Builder

from lbyl_onnx.budgets import budgets
from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.errors import NothingToRemove
from lbyl_onnx.evaluation.inspection import file_report
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import PruneOptions, RunOptions
from lbyl_onnx.selection import measurements, planner
from lbyl_onnx.selection.plan import reasons_to_leave, uniform_counts
from lbyl_onnx.selection.planner import FASTER, HALVINGS, MOST_REMOVED, Planner

CPU = RunOptions("cpu")
BLOCK = 16


@pytest.fixture(autouse=True)
def same_kernels_everywhere(monkeypatch):
    monkeypatch.setattr(planner, "block_of", lambda options: BLOCK)


def chain(graph):
    """Groups of 64, 32, 20 and 6 units."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 64, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 64, 32, (1, 1), name="second"))
    hidden = graph.node("Relu", graph.conv(hidden, 32, 20, (1, 1), name="third"))
    hidden = graph.node("Relu", graph.conv(hidden, 20, 6, (1, 1), name="fourth"))
    return graph.conv(hidden, 6, 4, (1, 1))


def residual(graph):
    stem = graph.conv(graph.input(), 3, 16, name="stem")
    branch = graph.conv(graph.node("Relu", graph.conv(stem, 16, 32, name="inner")), 32, 16)
    return graph.conv(graph.node("Relu", graph.node("Add", stem, branch)), 16, 4)


def flattened(graph):
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 32, name="first"))
    hidden = graph.node("Relu", graph.gemm(graph.node("Flatten", hidden), 32 * 18, 48, name="second"))
    return graph.gemm(hidden, 48, 5)


def planned(network, **options):
    graph = Builder()
    model = load(graph.model(network(graph)))
    analysis = analyse(model, probe(model))
    prune = PruneOptions(**options)
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((8, 3, 6, 3)).astype(np.float32)} for _ in range(4)]
    calibration = Calibration(batches, (0, 1, 0, 1), False, "drawn")
    return Planner(analysis, reasons_to_leave(analysis, prune), prune, CPU, calibration)


def report(planner_, plan=None):
    """What `inspect` says of the original, or of the model that a plan makes."""
    analysis = planner_.analysis
    whole = np.ones(analysis.classes.count, bool)
    if plan is None:
        return file_report(analysis, whole, analysis.model)
    return file_report(analysis, plan.kept, cut(analysis, plan.kept))


def kept(plan):
    return {choice.group.name: int((~choice.removed).sum()) for choice in plan.choices}


# ---- ratio


@pytest.mark.parametrize("network", [chain, flattened])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_a_ratio_saves_as_much_work_as_all_groups_alike(network, ratio):
    ours, alike = planned(network, ratio=ratio), planned(network, ratio=ratio, allocation="uniform")
    macs = report(ours, ours.plan(())).macs
    assert macs <= report(alike, alike.plan(())).macs < report(ours).macs


def test_a_ratio_is_spent_where_the_outputs_lose_least():
    """No other plan of so little work is expected to lose clearly less."""
    ours = planned(chain, ratio=0.3)
    (limit,) = ours.limits(())
    counts = ours.counts([limit])
    states = np.array(np.meshgrid(*(ours._levels().get(n, np.zeros(1, int)) for n in range(5)))).reshape(5, -1).T
    losses = [ours.divergence(state) for state in states[limit.cost(states) <= limit.most]]
    assert min(losses) <= ours.divergence(counts) <= 1.5 * min(losses)


@pytest.mark.parametrize("criterion", ["obs", "l2"])
def test_all_groups_lose_the_same_share_if_that_is_asked_for(criterion):
    ours = planned(chain, ratio=0.4, criterion=criterion, allocation="uniform")
    expected = {"first": 38, "second": 19, "third": 12, "fourth": 3}
    assert {name: count for name, count in kept(ours.plan(())).items() if name in expected} == expected
    assert not ours.known.curves


# ---- targets


@pytest.mark.parametrize("allocation", ["sensitivity", "uniform"])
@pytest.mark.parametrize(("network", "scope"), [(chain, "chains"), (residual, "all"), (flattened, "chains")])
@pytest.mark.parametrize("target", [{"macs": 0.7}, {"params": 0.6}, {"bytes": 0.75}, {"macs": 0.8, "params": 0.65}])
def test_the_model_that_is_cut_keeps_its_targets(network, scope, allocation, target):
    ours = planned(network, allocation=allocation, scope=scope)
    before, plan = report(ours), ours.plan(budgets(target))
    after = report(ours, plan)
    for name, share in target.items():
        field = {"macs": "macs", "params": "parameters", "bytes": "bytes"}[name]
        slack = 16 * len(ours.analysis.model.weights) if name == "bytes" else 0
        assert getattr(after, field) <= share * getattr(before, field) + slack
    counts = np.array([choice.removed.sum() for choice in plan.choices])
    assert float(ours.costs.macs(counts)) == after.macs and float(ours.costs.parameters(counts)) == after.parameters


def test_targets_are_numbers_too():
    ours = planned(chain)
    before = report(ours)
    plan = ours.plan(budgets({"macs": int(0.8 * before.macs), "params": f"{0.9 * before.parameters / 1e3}k"}))
    after = report(ours, plan)
    assert after.macs <= 0.8 * before.macs and after.parameters <= 0.9 * before.parameters


def test_a_ratio_and_a_target_both_hold():
    ratio = planned(chain, ratio=0.3)
    both = planned(chain, ratio=0.3).plan(budgets({"params": 0.35}))
    assert report(ratio, both).parameters <= 0.35 * report(ratio).parameters
    assert report(ratio, both).macs <= report(ratio, ratio.plan(())).macs * 1.2
    assert float(ratio.limits(())[0].most) >= report(ratio, both).macs


def test_a_target_that_holds_already_takes_nothing():
    assert planned(chain).plan(budgets({"macs": 1, "bytes": "1GB"})).removes_nothing


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_all_groups_alike_lose_the_smallest_share_that_keeps_a_target(share):
    ours = planned(chain, allocation="uniform")
    limits = ours.limits(budgets({"macs": share}))
    counts = ours.counts(limits)
    grid = np.arange(2**HALVINGS + 1) * MOST_REMOVED / 2**HALVINGS

    def alike(ratio):
        found = uniform_counts(ours.analysis, ours.reasons, ratio)
        return np.array([found.get(number, 0) for number in range(len(counts))])

    held = [ratio for ratio in grid if ours.costs.macs(alike(ratio)) <= limits[0].most]
    np.testing.assert_array_equal(counts, alike(min(held)))


# ---- out of reach


@pytest.mark.parametrize("allocation", ["sensitivity", "uniform"])
@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
def test_what_is_out_of_reach_is_refused_with_the_nearest_that_is_not(allocation, name):
    ours = planned(chain, allocation=allocation)
    with pytest.raises(NothingToRemove, match=rf": {name} cannot be brought to ") as error:
        ours.plan(budgets({name: 1e-3}))
    words = str(error.value)
    nearest = float(words.split("within reach is ")[1].split(" ")[0].replace(",", ""))
    assert (
        f"({nearest / getattr(report(ours), {'params': 'parameters'}.get(name, name)):.3f} of the original's)" in words
    )
    unit = "b" if name == "bytes" else ""
    assert not ours.plan(budgets({name: f"{nearest * (1 + 1e-5):.3f}{unit}"})).removes_nothing
    with pytest.raises(NothingToRemove):
        ours.plan(budgets({name: f"{nearest * (1 - 1e-3):.3f}{unit}"}))


# ---- how many units stay


@pytest.mark.parametrize("round_to", [1, 6, 16])
@pytest.mark.parametrize("allocation", ["sensitivity", "uniform"])
def test_a_multiple_stays_where_one_is_asked_for(round_to, allocation):
    ours = planned(chain, allocation=allocation, round_to=round_to)
    plan = ours.plan(budgets({"macs": 0.6}))
    changed = [choice for choice in plan.choices if choice.removed.any()]
    assert changed and all((~choice.removed).sum() % round_to == 0 for choice in changed)


def test_by_default_groups_keep_what_kernels_want_and_small_ones_all():
    """64 units by 16, 32 by 8, 20 by 4, 6 whole."""
    ours = planned(chain)
    found = [counts.tolist() for counts in ours._levels().values()]
    left = [[units - count for count in counts] for units, counts in zip((64, 32, 20, 6), found, strict=True)]
    assert left == [[64, 48, 32, 16], [32, 24, 16, 8], [20, 16, 12, 8, 4], [6]]


@pytest.mark.parametrize(("units", "block"), [(64, 16), (63, 8), (32, 8), (31, 4), (8, 4), (7, 7)])
def test_blocks_by_the_size_of_groups(units, block):
    ours = planned(lambda graph: two_layers(graph, units))
    assert ours._block(ours.analysis.groups[0]) == block


def two_layers(graph, units):
    return graph.conv(graph.node("Relu", graph.conv(graph.input(), 3, units)), units, 4)


def test_small_groups_lose_units_where_a_rounding_allows_it():
    assert kept(planned(chain, round_to=1).plan(budgets({"macs": 0.15})))["fourth"] < 6


def test_nobody_loses_more_than_seven_eighths():
    ours = planned(chain, round_to=1)
    with pytest.raises(NothingToRemove):
        ours.plan(budgets({"macs": 1e-3}))
    most = ours._most()
    assert most == {0: 56, 1: 28, 2: 17, 3: 5}
    assert all(counts.max() <= most[number] for number, counts in ours._levels().items())


# ---- latency


class MadeUpTimes:
    """Stands in for LatencyModel: a hundredth of a millisecond for each unit that stays."""

    made = 0

    def __init__(self, analysis, options, movable):
        type(self).made += 1
        self.units = sum(group.units for group in analysis.groups)
        self.movable = movable

    def milliseconds(self, removed):
        return 0.01 * (self.units - np.asarray(removed, float).sum(axis=-1))


@pytest.fixture
def made_up_times(monkeypatch):
    monkeypatch.setattr(planner, "LatencyModel", MadeUpTimes)
    monkeypatch.setattr(MadeUpTimes, "made", 0)


@pytest.mark.parametrize(("target", "left"), [(0.7, 0.7 * 126), ("0.7 ms", 70), ("700us", 70)])
def test_times_are_budgets(made_up_times, target, left):
    """Of 126 units."""
    ours = planned(chain)
    plan = ours.plan(budgets({"latency": target}))
    assert sum(kept(plan).values()) <= left + 1e-9
    assert ours.latency.movable.tolist() == [True] * 4 + [False]


def test_times_are_measured_once_and_only_where_they_matter(made_up_times):
    ours = planned(chain)
    ours.plan(budgets({"macs": 0.7}))
    assert MadeUpTimes.made == 0
    ours.plan(budgets({"latency": 0.8}))
    ours.plan(budgets({"latency": 0.7}))
    assert MadeUpTimes.made == 1


def test_a_time_out_of_reach(made_up_times):
    """Seven eighths may go: 8, 4, 3, 1 and 5 units stay."""
    with pytest.raises(
        NothingToRemove, match=r"latency cannot be brought to 0\.1 ms; the least within reach is 0\.21 ms "
    ):
        planned(chain).plan(budgets({"latency": "0.1ms"}))


@pytest.mark.parametrize("target", [0.7, "0.882 ms"])
def test_times_that_prove_longer_are_allowed_less(made_up_times, target):
    """Of 126 units, 88 may stay; runs take a quarter longer than predicted."""
    ours = planned(chain)
    plain = ours.plan(budgets({"latency": target}))
    ours.latency_factor = 1.25
    corrected = ours.plan(budgets({"latency": target}))
    assert sum(kept(corrected).values()) <= 88.2 / 1.25 < sum(kept(plain).values()) <= 88.2


def test_only_times_are_corrected():
    ours = planned(chain)
    before = ours.limits(budgets({"macs": 0.7}))[0].most
    ours.latency_factor = 2.0
    assert ours.limits(budgets({"macs": 0.7}))[0].most == before


# ---- coarser blocks


def left(ours):
    """How many units may stay, by group."""
    units = [group.units for group in ours.analysis.groups]
    return [[units[n] - count for count in counts] for n, counts in ours._levels().items()]


def test_coarse_plans_keep_whole_blocks_of_the_kernels_only():
    """64 and 32 are made of blocks of 16, 20 and 6 are not."""
    ours = planned(chain)
    fine = left(ours)
    assert ours.coarsen()
    assert left(ours) == [[64, 48, 32, 16], [32, 16], [20], [6]]
    ours.refine()
    assert left(ours) == fine


def test_it_is_coarse_enough_once():
    ours = planned(chain)
    assert ours.coarsen() and not ours.coarsen()


@pytest.mark.parametrize("options", [{"allocation": "uniform"}, {"round_to": 4}])
def test_what_was_asked_for_is_not_made_coarser(options):
    ours = planned(chain, ratio=0.3, **options)
    before = left(ours)
    assert not ours.coarsen() and left(ours) == before


def test_what_hurries_is_faster_by_its_predicted_latency():
    """A ratio goes as far as it is in reach."""
    ours = planned(chain, ratio=0.3)
    whole = float(ours.latency.milliseconds(np.zeros(5, int)))
    (ratio,) = ours.limits(())
    assert ours.hurry()
    latency, same = ours.limits(())
    assert (latency.name, latency.most) == ("latency", pytest.approx(FASTER * whole)) and same.most == ratio.most
    ours.relax()
    assert [limit.name for limit in ours.limits(())] == ["ratio"]


@pytest.mark.parametrize(
    "options", [{"allocation": "uniform"}, {"targets": budgets({"latency": 0.9})}, {"round_to": 8}]
)
def test_nothing_hurries_where_all_lose_the_same_or_latency_or_blocks_are_asked_for(options):
    assert not planned(chain, ratio=0.3, **options).hurry()


# ---- looking further


def test_heavier_cuts_are_measured_only_where_they_are_needed():
    """Up to seven eighths of each group, and any number of units may go then."""
    ours = planned(chain)
    ours.plan(budgets({"macs": 0.7}))
    near = {number: curve.removed.tolist() for number, curve in ours.known.curves.items()}
    units = kept(ours.plan(budgets({"macs": 0.12})))
    far = {number: curve.removed.tolist() for number, curve in ours.known.curves.items()}
    assert near[0][-1] < 56 and far[0][-2:] == [48, 56]
    assert all(set(points) < set(far[number]) for number, points in near.items())
    assert units["first"] % 4 and units["fourth"] < 6


def test_what_was_measured_before_stays_as_it_was():
    ours = planned(chain)
    near = dict(ours.known.curves)
    ours.plan(budgets({"macs": 0.12}))
    for number, curve in near.items():
        again = ours.known.curves[number].at(curve.removed)
        np.testing.assert_allclose(again, curve.divergence, rtol=1e-9, atol=1e-300)


def test_one_looks_further_once(monkeypatch):
    ours = planned(chain)
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return {}

    monkeypatch.setattr(measurements, "sensitivities", counted)
    for _ in range(2):
        with pytest.raises(NothingToRemove):
            ours.plan(budgets({"macs": 1e-3}))
    assert len(calls) == 1


@pytest.mark.parametrize("ratio", [0.7, 0.8])
@pytest.mark.parametrize("network", [chain, flattened])
def test_large_ratios_save_as_much_work_as_all_groups_alike(network, ratio):
    ours, alike = planned(network, ratio=ratio), planned(network, ratio=ratio, allocation="uniform")
    assert report(ours, ours.plan(())).macs <= report(alike, alike.plan(())).macs


def test_few_units_go_where_a_budget_asks_for_them():
    """Half of six hidden ones, a group that lighter budgets leave whole."""

    def small(graph):
        rows = graph.node("Flatten", graph.input())
        return graph.gemm(graph.node("Relu", graph.gemm(rows, 54, 6, name="hidden")), 6, 3)

    assert kept(planned(small, ratio=0.5).plan(()))["hidden"] == 3


# ---- groups that obs cannot measure


def grouped(graph):
    """Sixteen units of two filters each, as the only consumer has two convolution groups."""
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 32, name="producer"))
    return graph.conv(hidden, 32, 8, group=2, name="consumer")


def test_groups_that_no_consumer_was_measured_of_lose_units_in_the_order_of_their_ranking():
    ours = planned(grouped)
    number = next(n for n, group in enumerate(ours.analysis.groups) if group.name == "producer")
    ranked = ours.known.ranked[number]
    assert ranked.criterion == "l2" and ranked.ranking.trial is None
    trial = ours._first.trials[number]
    np.testing.assert_array_equal(trial.order, np.argsort(ranked.ranking.importance, kind="stable")[:14])
    assert trial.readings == ()
    plan = ours.plan(budgets({"macs": 0.7}))
    gone = np.flatnonzero(plan.choices[number].removed)
    assert len(gone) and set(gone) == set(trial.order[: len(gone)].tolist())


# ---- the rest


def test_losses_add_up():
    ours = planned(chain)
    counts = np.array([16, 8, 0, 0, 0])
    expected = sum(float(ours.known.curves[n].at(counts[n])) for n in (0, 1))
    assert ours.divergence(counts) == pytest.approx(expected) and expected > 0
    assert ours.divergence(np.zeros(5, int)) == 0


def test_a_target_of_accuracy_is_no_limit_of_costs():
    assert planned(chain).limits(budgets({"drop": 1})) == []
