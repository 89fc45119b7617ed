"""Plans that are corrected by results: made-up groups whose shares in the outputs' error are not what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.budgets import budgets
from lbyl_onnx.errors import MeasurementFailed, NothingToRemove, ValidationFailed
from lbyl_onnx.evaluation.correction import NOISE, RESULTS, _Factors, corrected
from lbyl_onnx.selection.allocation import Limit, OutOfReach, allocate
from lbyl_onnx.selection.sensitivity import Curve

UNITS, BLOCK = 64, 8
CHOICES = np.arange(0, UNITS, BLOCK)


class MadeUpPlanner:
    """Groups of 64 units, each unit as dear as the next; results move the outputs by what the curves say times the
    `truth` of each group, two numbers of which are group 1 and group 4. A plan is how many units go."""

    def __init__(self, truth, slopes):
        self.truth = np.array(truth)
        points = np.array([16, 32, 56])
        self._curves = {3 * n + 1: Curve(points, slope * (points / UNITS) ** 2) for n, slope in enumerate(slopes)}
        self.known = SimpleNamespace(curves=self._curves)
        self.groups = max(self._curves) + 1
        self.options = SimpleNamespace(seed=0)
        self.factors, self.results = {}, []

    def limits(self, targets):
        whole = UNITS * len(self._curves)
        return [Limit(each.name, lambda removed: whole - removed.sum(axis=-1), each.most(whole)) for each in targets]

    def counts(self, limits):
        curves = {number: curve.times(self.factors.get(number, 1.0)) for number, curve in self._curves.items()}
        return allocate(curves, dict.fromkeys(curves, CHOICES), self.groups, limits)

    def correct(self, factors):
        self.factors = factors

    def plan_of(self, counts):
        choices = [SimpleNamespace(removed=np.arange(UNITS) < count) for count in counts]
        return SimpleNamespace(counts=counts, choices=choices, removes_nothing=not counts.any())

    def plan(self, targets):
        try:
            return self.plan_of(self.counts(self.limits(targets)))
        except OutOfReach as error:
            raise NothingToRemove(str(error)) from None

    def moved(self, plan):
        shares = [float(curve.at(plan.counts[number])) for number, curve in self._curves.items()]
        self.results.append(float(self.truth @ shares))
        return self.results[-1]

    def best(self, targets):
        """How far the outputs move by the plan that knows the truth."""
        curves = dict(zip(self._curves, self.truth, strict=True))
        self.correct(curves)
        found = self.moved(self.plan(targets))
        self.results.clear()
        self.correct({})
        return found


positive = st.floats(0.2, 5.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=8), st.sampled_from([0.9, 0.8, 0.6]))
def test_the_result_that_moves_the_outputs_least_is_kept(groups, share):
    planner, targets = MadeUpPlanner(*zip(*groups, strict=True)), budgets({"macs": share})
    found = corrected(planner, targets, planner.moved)
    assert found.counts.sum() >= (1 - share) * UNITS * len(groups) - 1e-9
    assert len(planner.results) <= 1 + RESULTS
    assert planner.moved(found) == min(planner.results)


@pytest.mark.parametrize("truth", [(4, 1, 1, 0.3), (0.3, 3, 1, 1), (1, 1, 6, 0.5)])
def test_few_results_come_half_way_to_the_plan_that_knows_the_truth(truth):
    planner, targets = MadeUpPlanner(truth, (1, 1, 1, 1)), budgets({"macs": 0.7})
    best = planner.best(targets)
    found = planner.moved(corrected(planner, targets, planner.moved))
    first = planner.results[0]
    assert best < 0.6 * first and found - best <= (first - best) / 2


def test_expectations_are_what_results_taught():
    """Once that is learned, the sum over the curves is what the results do."""
    planner, targets = MadeUpPlanner((2, 2, 2, 2), (1, 2, 3, 4)), budgets({"macs": 0.7})
    corrected(planner, targets, planner.moved)
    np.testing.assert_allclose(list(planner.factors.values()), 2.0, rtol=0.05)


def test_the_same_seed_gives_the_same_plan():
    found = []
    for _ in range(2):
        planner = MadeUpPlanner((3, 1, 0.5, 2, 1), (1, 1, 2, 1, 3))
        found.append(corrected(planner, budgets({"macs": 0.8}), planner.moved).counts)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("error", [MeasurementFailed("no runtime"), ValidationFailed("not finite")])
def test_results_that_cannot_be_measured_teach_nothing(error):
    planner, targets = MadeUpPlanner((1, 1, 1), (1, 2, 3)), budgets({"macs": 0.8})
    first, asked = planner.plan(targets), []

    def fails_later(plan):
        asked.append(plan)
        if len(asked) > 1:
            raise error
        return planner.moved(plan)

    def fails(plan):
        raise error

    np.testing.assert_array_equal(corrected(planner, targets, fails_later).counts, first.counts)
    assert 2 <= len(asked) <= 1 + RESULTS
    np.testing.assert_array_equal(corrected(planner, targets, fails).counts, first.counts)


@pytest.mark.parametrize(("slopes", "share"), [((1.0,), 0.8), ((1.0, 2.0), 1.0)])
def test_where_there_is_no_choice_nothing_is_made(slopes, share):
    planner = MadeUpPlanner(np.ones(len(slopes)), slopes)
    corrected(planner, budgets({"macs": share}), planner.moved)
    assert planner.results == []


def test_what_is_out_of_reach_is_said():
    planner = MadeUpPlanner((1, 1), (1, 1))
    with pytest.raises(NothingToRemove, match="cannot be below"):
        corrected(planner, budgets({"macs": 0.01}), planner.moved)


def test_factors_are_those_of_bayesian_regression():
    """Straight from the definition: a normal prior about 2, relative noise."""
    rng = np.random.default_rng(0)
    rows, moved = rng.uniform(0.1, 1, (5, 3)), rng.uniform(1, 2, 5)
    factors = _Factors(2.0, 3)
    np.testing.assert_allclose(factors.mean, 2.0)
    for row, amount in zip(rows, moved, strict=True):
        factors.learn(row, amount)
    deviations = np.concatenate([NOISE * moved, np.full(3, 1.0)])
    system, wanted = np.concatenate([rows, np.eye(3)]), np.concatenate([moved, np.full(3, 2.0)])
    expected = np.linalg.lstsq(system / deviations[:, None], wanted / deviations, rcond=None)[0]
    np.testing.assert_allclose(factors.mean, np.maximum(expected, 0.2), rtol=1e-6)
    np.testing.assert_array_equal(factors.near(0.0, rng), factors.mean)
    draws = np.array([factors.near(0.5, rng) for _ in range(4000)])
    spread = np.linalg.inv((system.T / deviations**2) @ system)
    np.testing.assert_allclose(np.cov(draws.T), 0.25 * spread, atol=0.02)
