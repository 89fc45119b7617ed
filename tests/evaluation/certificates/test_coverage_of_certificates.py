"""Certificates fail no more often than they may, and a cheated one is caught."""

import numpy as np
import pytest
from certificate_draws import FALSE_ALARM, WORLDS, most_failures, tally
from scipy import stats

from lbyl_onnx.evaluation.certificates import intervals, statements
from lbyl_onnx.evaluation.certificates.statements import CHANGED, QUANTILE

DRAWS, SAMPLES, CONFIDENCE = 1000, 500, 0.9


def test_the_critical_value_has_the_false_alarm_rate():
    most = most_failures(DRAWS, 0.1)
    assert stats.binom.sf(most, DRAWS, 0.1) <= FALSE_ALARM < stats.binom.sf(most - 1, DRAWS, 0.1)


@pytest.mark.parametrize("name", WORLDS)
def test_certificates_hold_together(name):
    found = tally([WORLDS[name]], SAMPLES, CONFIDENCE, DRAWS)
    assert found.failed <= most_failures(DRAWS, 1 - CONFIDENCE)
    for quantity, count in found.made.items():
        assert found.of[quantity] <= most_failures(count, statements.shared_error(CONFIDENCE, 4)), quantity


def of_three_outputs():
    return tally([WORLDS["smooth"]] * 3, SAMPLES, CONFIDENCE, DRAWS)


def test_certificates_of_several_outputs_hold_together():
    found = of_three_outputs()
    assert found.failed <= most_failures(DRAWS, 1 - CONFIDENCE)
    assert found.failed > 0  # they are not valid because they say nothing


def test_without_the_union_bound_too_many_fail(monkeypatch):
    monkeypatch.setattr(statements, "shared_error", lambda confidence, count: 1 - confidence)
    assert of_three_outputs().failed > most_failures(DRAWS, 1 - CONFIDENCE)


def test_what_was_seen_is_no_bound(monkeypatch):
    monkeypatch.setattr(statements, "share_at_most", lambda hits, samples, error: hits / samples)
    assert tally([WORLDS["smooth"]], SAMPLES, CONFIDENCE, DRAWS).of[CHANGED] > most_failures(DRAWS, 0.1)


def test_the_quantile_of_the_samples_is_no_bound(monkeypatch):
    monkeypatch.setattr(statements, "quantile_rank", lambda samples, share, error: round(samples * share))
    assert tally([WORLDS["smooth"]], SAMPLES, CONFIDENCE, DRAWS).of[QUANTILE] > most_failures(DRAWS, 0.1)


def test_both_bounds_of_a_loss_hold():
    world, rng, error = WORLDS["common"], np.random.default_rng(3), 0.1
    failed = {intervals.CLOPPER_PEARSON: 0, intervals.BERNSTEIN: 0}
    for _ in range(DRAWS):
        losses = world.drawn(SAMPLES, rng, "0").losses
        for method in failed:
            failed[method] += intervals.accuracy_loss_at_most(losses, error, method) < world.lost - world.won
    assert max(failed.values()) <= most_failures(DRAWS, error)
