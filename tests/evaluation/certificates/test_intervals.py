"""Each bound against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lbyl_onnx.evaluation.certificates.intervals import (
    BERNSTEIN,
    CLOPPER_PEARSON,
    accuracy_loss_at_most,
    accuracy_method,
    mean_at_most,
    quantile_rank,
    samples_for_quantile,
    samples_for_share,
    share_at_least,
    share_at_most,
)

errors = st.sampled_from([0.2, 0.05, 0.01, 0.0025, 1e-6])


@settings(deadline=None)
@given(st.integers(1, 400), st.data(), errors)
def test_shares_are_those_at_which_what_was_seen_has_the_error(samples, data, error):
    hits = data.draw(st.integers(0, samples))
    above, below = share_at_most(hits, samples, error), share_at_least(hits, samples, error)
    assert below <= hits / samples <= above
    if hits < samples:
        assert stats.binom.cdf(hits, samples, above) == pytest.approx(error)
    if hits:
        assert stats.binom.sf(hits - 1, samples, below) == pytest.approx(error)


def test_a_share_of_none_is_the_rule_of_three():
    assert share_at_most(0, 300, 0.05) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert share_at_most(300, 300, 0.05) == 1 and share_at_least(0, 300, 0.05) == 0


@settings(deadline=None)
@given(st.integers(1, 3000), st.sampled_from([0.5, 0.75, 0.9, 0.99]), errors)
def test_the_rank_is_the_least_that_is_rarely_below_the_quantile(samples, share, error):
    rank = quantile_rank(samples, share, error)
    if rank is None:
        assert share**samples > error
        return
    assert stats.binom.sf(rank - 1, samples, share) <= error
    assert rank == 1 or stats.binom.sf(rank - 2, samples, share) > error


@settings(deadline=None)
@given(st.sampled_from([0.5, 0.9, 0.99, 0.999]), errors)
def test_fewer_samples_bound_no_quantile(share, error):
    needed = samples_for_quantile(share, error)
    assert quantile_rank(needed, share, error) == needed
    assert quantile_rank(needed - 1, share, error) is None


@settings(deadline=None)
@given(st.sampled_from([0.3, 0.05, 0.01]), st.integers(0, 20), errors)
def test_fewer_samples_bound_no_share(limit, hits, error):
    needed = samples_for_share(limit, hits, error)
    assert share_at_most(hits, needed, error) <= limit < share_at_most(hits, needed - 1, error)


def test_a_share_out_of_reach_is_none():
    assert samples_for_share(1e-9, 0, 0.01) is None


def test_the_mean_is_bounded_as_published():
    values = np.tile([0.0, 0.25, 0.5, 1.0], 25)
    pairs = (values[:, None] - values) ** 2
    log, variance = np.log(2 / 0.05), pairs[np.triu_indices(100, 1)].sum() / (100 * 99)
    expected = values.mean() + np.sqrt(2 * variance * log / 100) + 7 * log / (3 * 99)
    assert mean_at_most(values, 0, 1, 0.05) == pytest.approx(expected) and expected < 1
    assert mean_at_most(values[:4], 0, 1, 0.05) == 1 and mean_at_most(values[:1], 0, 1, 0.05) == 1


def test_the_mean_scales_with_its_range():
    values = np.random.default_rng(0).uniform(-1, 1, 400)
    scaled = mean_at_most((values + 1) / 2, 0, 1, 0.01)
    assert mean_at_most(values, -1, 1, 0.01) == pytest.approx(2 * scaled - 1)


def test_a_loss_is_bounded_by_the_method_that_few_or_many_samples_name():
    assert accuracy_method(500, 0.0025) == CLOPPER_PEARSON
    assert accuracy_method(200_000, 0.0025) == BERNSTEIN


def test_a_loss_takes_half_of_the_error_for_each_side():
    losses = np.repeat([1, -1, 0], [6, 2, 192])
    expected = share_at_most(6, 200, 0.005) - share_at_least(2, 200, 0.005)
    assert accuracy_loss_at_most(losses, 0.01, CLOPPER_PEARSON) == pytest.approx(expected)
    assert accuracy_loss_at_most(losses, 0.01, BERNSTEIN) == pytest.approx(mean_at_most(losses, -1, 1, 0.01))
