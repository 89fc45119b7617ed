"""Restorations against the published equations, solved filter by filter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.channels.folding import ProducerLayer
from lbyl_onnx.channels.groups import WeightAxis
from lbyl_onnx.model.graph import Constant
from lbyl_onnx.options import PruneOptions
from lbyl_onnx.restoration import RESTORATIONS
from lbyl_onnx.restoration.from_weights import residual_error
from lbyl_onnx.restoration.lbyl import lbyl
from lbyl_onnx.restoration.neuron_merging import LEAST_SIMILARITY, SHARE_OF_ANGLE, neuron_merging

KINDS = ["normalised", "folded", "fully connected"]
MIXERS = {name: method.mixer for name, method in RESTORATIONS.items() if method.mixer is not None}


def penalties(lambda1, lambda2):
    """LBYL's penalties, all else by default."""
    return PruneOptions(lambda1=lambda1, lambda2=lambda2)


WEIGHT = Constant("weight", np.dtype(np.float32), exclusive=True)


def layer(kind, filters, bias=None, scale=None, shift=None):
    """`filters`: (channels, d); the rest (channels,), by default what changes nothing."""
    filters = np.asarray(filters, np.float64)
    channels = len(filters)
    op = "Gemm" if kind == "fully connected" else "Conv"
    return ProducerLayer(
        WeightAxis(0, 1, "producer", op, WEIGHT, 0, np.arange(channels), 1),
        filters,
        np.zeros(channels) if bias is None else np.asarray(bias, np.float64),
        np.ones(channels) if scale is None else np.asarray(scale, np.float64),
        np.zeros(channels) if shift is None else np.asarray(shift, np.float64),
        "producer",
        gamma=np.ones(channels) if kind == "normalised" else None,
    )


def random_layer(kind, rng, channels, size):
    parts = [rng.standard_normal((channels, size)), rng.standard_normal(channels)]
    if kind == "normalised":
        signs = rng.choice([-1, 1], channels)
        parts += [signs * rng.uniform(0.3, 3, channels), rng.standard_normal(channels)]
    return layer(kind, *parts)


@st.composite
def problems(draw, kind, smallest=1):
    """A layer with filters of at least `smallest` weights, and a random split of its channels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    channels = draw(st.integers(2, 24))
    count = draw(st.integers(1, channels - 1))
    order = rng.permutation(channels)
    return random_layer(kind, rng, channels, draw(st.integers(smallest, 40))), order[count:], order[:count]


PENALTIES = st.builds(penalties, st.sampled_from([0.0, 1e-3, 1.0, 100.0]), st.sampled_from([1e-3, 0.1, 1.0, 30.0]))


def published(producer, kept, removed, options):
    """S, one system for each removed filter."""
    weights, bias = producer.folded_filters, producer.folded_bias
    rows = []
    for channel in removed:
        q = producer.scale[channel] ** 2 if producer.normalised else 1.0
        left = weights[kept] @ weights[kept].T + q * options.lambda1 * np.outer(bias[kept], bias[kept])
        left += q * options.lambda2 * np.eye(len(kept))
        right = weights[kept] @ weights[channel] + q * options.lambda1 * bias[channel] * bias[kept]
        rows.append(np.linalg.solve(left, right))
    return np.array(rows)


def published_with_intercept(producer, kept, removed, options):
    """S of ridge regression on [w, b], whose intercept has no penalty and is thrown away."""
    samples = np.column_stack([producer.filters, producer.bias]).T
    design = np.column_stack([samples[:, kept], np.ones(len(samples))])
    penalty = np.diag([*[options.lambda2] * len(kept), 0])
    return np.linalg.solve(design.T @ design + penalty, design.T @ samples[:, removed])[:-1].T


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), options=PENALTIES)
@settings(deadline=None, derandomize=True)
def test_lbyl_solves_the_published_equations(kind, data, options):
    producer, kept, removed = data.draw(problems(kind))
    solve = published_with_intercept if kind == "fully connected" else published
    expected = solve(producer, kept, removed, options)
    found = lbyl(producer, kept, removed, options)
    assert found.shape == (len(removed), len(kept)) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_the_scale_in_front_of_the_penalties_is_that_of_the_batch_normalisation_only():
    """A Mul behind a Conv is folded, but only a BatchNormalization's scale weighs the penalties."""
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((6, 9)), rng.standard_normal(6), rng.uniform(2, 3, 6), rng.standard_normal(6)
    split, options = (np.arange(4), np.array([4, 5])), penalties(1.0, 1.0)
    folded = layer("folded", parts[0] * parts[2][:, None], parts[1] * parts[2] + parts[3])
    same = lbyl(folded, *split, options)
    np.testing.assert_allclose(lbyl(layer("folded", *parts), *split, options), same)
    assert np.abs(lbyl(layer("normalised", *parts), *split, options) - same).max() > 1e-2


def low_rank(rng, channels, size, rank):
    return rng.standard_normal((channels, rank)) @ rng.standard_normal((rank, size))


@pytest.mark.parametrize(("channels", "size"), [(24, 4), (24, 9), (12, 4608)], ids=str)
@pytest.mark.parametrize("copies", [False, True], ids=["combinations", "copies"])
def test_without_penalty_a_singular_system_has_the_shortest_solution(channels, size, copies):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        if copies:
            basis = rng.standard_normal((3, size))
            filters = rng.uniform(0.3, 3, (channels, 1)) * basis[rng.integers(0, 3, channels)]
        else:
            filters = low_rank(rng, channels, size, rank=3)
        filters[-2:] = rng.standard_normal((2, size))
        kept, removed = np.arange(channels - 2), np.arange(channels - 2, channels)
        expected = np.linalg.lstsq(filters[kept].T, filters[removed].T, rcond=1e-9)[0].T
        found = lbyl(layer("folded", filters), kept, removed, penalties(0, 0))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dependent", [False, True], ids=["more filters than weights", "shifts depend too"])
def test_without_penalty_the_shift_uses_directions_that_the_filters_leave_free(dependent):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        producer = random_layer("normalised", rng, 16, 4)
        if dependent:  # each kept channel has a copy, shift included
            for part in (producer.filters, producer.bias, producer.scale, producer.shift):
                part[3:14] = part[rng.integers(0, 3, 11)]
        kept, removed = np.arange(14), np.array([14, 15])
        weights, bias = producer.folded_filters, producer.folded_bias
        found = lbyl(producer, kept, removed, penalties(0.5, 0))
        for row, channel in zip(found, removed, strict=True):
            weight = np.sqrt(0.5) * abs(producer.scale[channel])
            design = np.column_stack([weights, weight * bias])
            expected = np.linalg.lstsq(design[kept].T, design[channel], rcond=1e-7)[0]
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_filters_that_are_all_zero():
    producer = layer("folded", np.zeros((4, 9)), bias=[0, 0, 0, 1])
    for method in MIXERS.values():
        np.testing.assert_array_equal(method(producer, np.arange(3), np.array([3]), penalties(1, 0)), np.zeros((1, 3)))
    assert residual_error(producer, np.array([0, 3]), np.array([1, 2]), np.zeros((2, 2))) == 0


def test_channels_that_are_constant():
    """No weights, only biases: one constant stands in for the other."""
    producer = layer("folded", np.zeros((3, 9)), bias=[2, 0, 3])
    mixing = lbyl(producer, np.array([0, 1]), np.array([2]), penalties(1, 0))
    np.testing.assert_allclose(mixing, [[1.5, 0]])


def doubled(kind, channels=6, size=12):
    """A layer whose last channel computes the double of its second one."""
    rng = np.random.default_rng(1)
    producer = random_layer(kind, rng, channels, size)
    parts = [producer.filters, producer.bias, producer.scale, producer.shift]
    for part in parts:
        part[-1] = part[1]
    if kind == "normalised":
        producer.scale[-1], producer.shift[-1] = 4 * producer.scale[1], 2 * producer.shift[1]
        producer.filters[-1] /= 2
        producer.bias[-1] /= 2
    else:
        producer.filters[-1] *= 2
        producer.bias[-1] *= 2
    return producer, np.arange(channels - 1), np.array([channels - 1])


@pytest.mark.parametrize("method", MIXERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_multiple_of_a_kept_channel_is_restored_exactly(kind, method):
    problem = doubled(kind)
    for lambda1 in (0.0, 100.0):
        mixing = MIXERS[method](*problem, penalties(lambda1, 0))
        np.testing.assert_allclose(mixing, [[0, 2, 0, 0, 0]], atol=1e-9)
        assert residual_error(*problem, mixing) < 1e-18


@pytest.mark.parametrize("kind", KINDS)
def test_a_combination_of_kept_channels_is_restored_exactly_by_lbyl_only(kind):
    rng = np.random.default_rng(2)
    shares = np.array([0.5, -1, 2, 0, 0])
    filters, bias = rng.standard_normal((6, 12)), rng.standard_normal(6)
    filters[5], bias[5] = shares @ filters[:5], shares @ bias[:5]
    problem = layer(kind, filters, bias), np.arange(5), np.array([5])
    mixing = lbyl(*problem, penalties(1.0, 0))
    np.testing.assert_allclose(mixing, shares[None], atol=1e-9)
    assert residual_error(*problem, mixing) < 1e-18
    merged = neuron_merging(*problem, penalties(1.0, 0))
    assert (merged != 0).sum() == 1 and residual_error(*problem, merged) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_penalty_gives_a_smaller_solution(kind):
    producer = random_layer(kind, np.random.default_rng(3), 12, 20)
    sizes = [
        np.linalg.norm(lbyl(producer, np.arange(8), np.arange(8, 12), penalties(0, penalty)))
        for penalty in (0, 0.1, 1, 10, 1e6)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 1e-3 < sizes[0]


def test_lambda1_trades_the_filter_for_the_shift():
    producer = random_layer("normalised", np.random.default_rng(4), 12, 20)
    kept, removed = np.arange(8), np.arange(8, 12)
    errors = []
    for lambda1 in (0, 1, 100, 1e8):
        mixing = lbyl(producer, kept, removed, penalties(lambda1, 1e-3))
        bias = producer.folded_bias
        errors.append(np.abs(bias[removed] - mixing @ bias[kept]).max())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5 < 0.1 < errors[0]


def merged_by_hand(producer, kept, removed):
    """Neuron Merging as its description says, one removed channel after the other."""
    weights, bias = producer.folded_filters, producer.folded_bias
    if producer.is_matrix:
        weights = np.column_stack([producer.filters, producer.bias])
    mixing = np.zeros((len(removed), len(kept)))
    for row, j in enumerate(removed):
        similarity = [weights[j] @ weights[k] / np.linalg.norm(weights[j]) / np.linalg.norm(weights[k]) for k in kept]
        ratio = [np.linalg.norm(weights[j]) / np.linalg.norm(weights[k]) for k in kept]
        distance = [1 - value for value in similarity]
        if producer.normalised:
            shift = np.array([abs(bias[j] - scale * bias[k]) for scale, k in zip(ratio, kept, strict=True)])
            span = shift.max() - shift.min()
            shift = (shift - shift.min()) / span if span else 0 * shift
            distance = [0.85 * far + 0.15 * off for far, off in zip(distance, shift, strict=True)]
        best = min(range(len(kept)), key=lambda index: distance[index])
        if similarity[best] >= 0.1:
            mixing[row, best] = ratio[best]
    return mixing


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, derandomize=True)
def test_neuron_merging_equals_a_plain_loop(kind, data):
    producer, kept, removed = data.draw(problems(kind, smallest=2))  # single weights all point the same way
    found = neuron_merging(producer, kept, removed, penalties(0, 0))
    np.testing.assert_allclose(found, merged_by_hand(producer, kept, removed), rtol=1e-9)
    assert ((found != 0).sum(axis=1) <= 1).all() and (found >= 0).all()


@pytest.mark.parametrize(("cosine", "scale"), [(0.09, 0.0), (0.11, 3.0), (-0.9, 0.0)])
def test_neuron_merging_drops_what_resembles_nothing(cosine, scale):
    filters = [[1, 0], [3 * cosine, 3 * np.sqrt(1 - cosine**2)]]
    found = neuron_merging(layer("folded", filters), np.array([0]), np.array([1]), penalties(0, 0))
    np.testing.assert_allclose(found, [[scale]])


def test_neuron_merging_prefers_the_partner_whose_shift_fits():
    """Both kept filters point the same way; only the shift tells which one stands in."""
    filters, shift = [[1, 0], [1, 0], [2, 0]], [5.0, 1.0, 2.0]
    found = neuron_merging(layer("normalised", filters, shift=shift), np.arange(2), np.array([2]), penalties(0, 0))
    np.testing.assert_array_equal(found, [[0, 2]])


def test_published_constants():
    assert (SHARE_OF_ANGLE, LEAST_SIMILARITY) == (0.85, 0.1)
    assert {*MIXERS} == {"lbyl", "neuron-merging"} and {*MIXERS, "moments", "none"} == {*RESTORATIONS}


def test_residual_error_is_a_share_of_the_energy():
    producer = layer("folded", [[3, 0], [0, 4], [2, 1]], bias=[0, 0, 2])
    kept, removed = np.arange(2), np.array([2])
    assert residual_error(producer, kept, removed, np.zeros((1, 2))) == 1
    assert residual_error(producer, kept, removed, np.array([[2 / 3, 1 / 4]])) == pytest.approx(4 / 9)
    assert residual_error(producer, kept, removed, np.array([[0, 1 / 4]])) == pytest.approx(8 / 9)
