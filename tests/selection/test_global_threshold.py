"""One threshold for all groups: who goes, what stays whatever is asked for, and gaps that are there or not."""

import numpy as np
import pytest
from graphs import Builder, plan_for
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx import compress
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.errors import NothingToRemove, UsageError
from lbyl_onnx.evaluation.records import Report
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import PruneOptions
from lbyl_onnx.selection.criteria import Ranking
from lbyl_onnx.selection.global_threshold import comparable_scores, global_counts, ratio_below_gap, units_below_gap
from lbyl_onnx.selection.plan import Ranked

SCORES = st.dictionaries(
    st.integers(0, 5), st.lists(st.integers(0, 9).map(float), min_size=1, max_size=12), min_size=1, max_size=4
)
RATIOS = st.floats(0, 1, exclude_max=True)


def scored(given, criterion="bn-scale"):
    return comparable_scores({n: Ranked(Ranking(np.array(each)), criterion) for n, each in given.items()})


def two_modes(rng, low=60, high=80):
    """Scores around 0.01 and 0.5, in random order."""
    return rng.permutation(np.concatenate([10 ** rng.normal(-2, 0.25, low), rng.uniform(0.35, 0.8, high)]))


# ---- counts


def test_the_lowest_of_all_groups_go():
    counts = global_counts(scored({0: [1, 2, 3, 4], 2: [0.5, 9, 8, 7]}), 3, 0.5)
    assert counts.tolist() == [3, 0, 1]


def test_layers_count_alike_where_a_criterion_does_not_compare_between_them():
    ones, hundreds = [1.0, 2, 3, 4], [100.0, 200, 300, 400]
    assert global_counts(scored({0: ones, 1: hundreds}), 2, 3 / 8).tolist() == [3, 0]
    assert global_counts(scored({0: ones, 1: hundreds}, "l2"), 2, 3 / 8).tolist() == [2, 1]


def test_ties_go_in_the_order_of_groups():
    assert global_counts(scored({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}), 2, 0.5).tolist() == [3, 1]


def test_units_that_stay_are_infinite():
    assert global_counts(scored({0: [1, np.inf, 2], 1: [np.inf, np.inf]}), 2, 0.99).tolist() == [2, 0]


@settings(deadline=None)
@given(SCORES, RATIOS, st.integers(1, 8))
def test_no_group_is_emptied_and_multiples_stay(given, ratio, round_to):
    counts = global_counts(scored(given), 6, ratio, round_to)
    assert counts.sum() <= ratio * sum(map(len, given.values())) + 1e-6
    for number, each in given.items():
        kept = len(each) - counts[number]
        assert 1 <= kept <= len(each) and (kept % round_to == 0 or kept == len(each))
    assert counts.sum() == sum(counts[number] for number in given)


@settings(deadline=None)
@given(SCORES, RATIOS)
def test_whoever_stays_is_worth_as_much_as_whoever_goes(given, ratio):
    counts = global_counts(scored(given), 6, ratio)
    gone = [score for n, each in given.items() for score in sorted(each)[: counts[n]]]
    stays = [score for n, each in given.items() for score in sorted(each)[counts[n] :]]
    asked = int(ratio * sum(map(len, given.values())) + 1e-6)
    assert len(gone) == min(asked, sum(len(each) - 1 for each in given.values()))
    spared = [max(each) for each in given.values()]
    for score in spared:
        stays.remove(score)
    assert not gone or not stays or max(gone) <= min(stays)


# ---- the gap


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("low", [20, 60, 200])
def test_a_gap_is_found(seed, low):
    scores = two_modes(np.random.default_rng(seed), low)
    assert units_below_gap(scores) == low
    assert units_below_gap(7 * scores) == low


@pytest.mark.parametrize("zeros", [20, 200])
def test_zeros_are_a_mode(zeros):
    scores = np.concatenate([np.zeros(zeros), np.linspace(0.3, 0.9, 100)])
    assert units_below_gap(scores) == zeros


SINGLE = {
    "uniform": lambda rng, n: rng.random(n),
    "normal": lambda rng, n: np.abs(rng.normal(1, 0.3, n)),
    "half-normal": lambda rng, n: np.abs(rng.normal(0, 1, n)),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "log-normal": lambda rng, n: rng.lognormal(0, 2, n),
    "log-uniform": lambda rng, n: 10 ** rng.uniform(-3, 0, n),
}


@pytest.mark.parametrize("draw", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("units", [10, 60, 300, 2000])
def test_a_single_mode_has_no_gap(draw, units):
    rng = np.random.default_rng(0)
    found = [units_below_gap(draw(rng, units)) for _ in range(100)]
    assert sum(each is not None for each in found) <= 3


def test_a_lower_mode_that_is_hardly_lower_is_none():
    rng = np.random.default_rng(0)
    assert units_below_gap(np.concatenate([rng.normal(0.5, 0.01, 100), rng.normal(1, 0.01, 100)])) is None


@pytest.mark.parametrize("scores", [[], [1.0], [0.0] * 100, [3.0] * 100, [0.001, *[1.0] * 99]])
def test_what_is_no_distribution_has_no_gap(scores):
    assert units_below_gap(np.array(scores)) is None


def test_where_there_is_no_gap_the_scores_are_told():
    words = "of 5 units have a score 3 from 0.4 to 4, 1 from 0.04 to 0.4, 0 from 0.004 to 0.04, 1 below"
    with pytest.raises(NothingToRemove, match=f"net.onnx: --ratio auto finds no gap .*: {words}"):
        ratio_below_gap({0: np.array([4.0, 3, np.inf]), 3: np.array([2.0, 0.1, 0, np.inf])}, "net.onnx")


# ---- plans


def normalised(gammas):
    """A chain of 1 x 1 convolutions, each with BatchNormalization of these scales and a shift of 0.1."""
    graph = Builder()
    hidden, width = graph.input((2, 3, 6, 3)), 3
    for number, gamma in enumerate(gammas):
        hidden, units = graph.conv(hidden, width, len(gamma), (1, 1), name=f"layer{number}"), len(gamma)
        rest = [graph.constant(np.full(units, value, np.float32)) for value in (0.1, 0, 1)]
        scale = graph.constant(np.asarray(gamma, np.float32))
        hidden, width = graph.node("Relu", graph.node("BatchNormalization", hidden, scale, *rest)), units
    return graph.model(graph.conv(hidden, width, 4, (1, 1)))


def removed(proto, **options):
    model = load(proto)
    plan = plan_for(analyse(model, probe(model)), **{"criterion": "bn-scale", "allocation": "global", **options})
    return [int(choice.removed.sum()) for choice in plan.choices[:-1]]


def bimodal():
    """Three layers of 32, 48 and 16 units, of which 5, 40 and 16 have scales near 0; and those scales."""
    rng, layers = np.random.default_rng(1), []
    for units, low in ((32, 5), (48, 40), (16, 16)):
        layers.append(rng.permutation(two_modes(rng, low, units - low)))
    return layers


def test_the_gap_says_how_much_goes_and_the_best_unit_of_a_layer_below_it_stays():
    assert removed(normalised(bimodal()), ratio="auto") == [5, 40, 15]


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, [0, 0, 0]), (60 / 96, [5, 40, 15]), (0.99, [31, 47, 15])])
def test_a_ratio_is_of_all_units_together(ratio, expected):
    assert removed(normalised(bimodal()), ratio=ratio) == expected


def test_what_stays_is_rounded_up():
    assert removed(normalised(bimodal()), ratio="auto", round_to=8) == [0, 40, 8]


def test_a_target_is_met_by_the_threshold(place):
    result = compress(normalised(bimodal()), target={"macs": 0.5}, criterion="bn-scale", allocation="global", seed=1)
    assert result.report.output.macs <= 0.5 * result.report.input.macs
    assert result.report.groups[1].units_after < result.report.groups[0].units_after


@pytest.mark.parametrize("restore", ["none", "moments"])
def test_units_of_no_importance_are_made_up_for(restore):
    rng = np.random.default_rng(0)
    calibration = {"x": rng.standard_normal((64, 3, 6, 3)).astype(np.float32)}
    options = {"criterion": "bn-scale", "allocation": "global", "calibration": calibration, "restore": restore}
    report = compress(normalised(bimodal()), "auto", **options).report
    assert [group.units_after for group in report.groups][:3] == [27, 8, 1]
    assert Report.from_json(report.to_json()).options == report.options
    assert report.options.prune.ratio == "auto"
    if restore == "moments":
        assert report.validation.outputs[0].error_share < 0.01


def test_without_a_gap_nothing_goes():
    with pytest.raises(NothingToRemove, match="finds no gap"):
        removed(normalised([np.linspace(0.1, 1, 64)] * 3), ratio="auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "auto"}, "ratio is auto, which needs the allocation global, not auto"),
        ({"ratio": "half"}, "ratio is a str; expected a number"),
        ({"ratio": 0.3, "allocation": "global"}, "allocation is global, which compares scores .* obs has none"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UsageError, match=message):
        PruneOptions(**options)


def test_folded_networks_are_told_what_to_do(place):
    with pytest.raises(UsageError, match=r"has none \(exporters fold it\); use --criterion obs"):
        compress("models/digits_cnn_folded.onnx", 0.3, criterion="bn-scale", allocation="global")
