"""Who loses how many units, for made-up sensitivities and costs."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.selection.allocation import MOST_LEVELS, Limit, OutOfReach, allocate, levels
from lbyl_onnx.selection.sensitivity import Curve


class Problem:
    """Made-up groups in a chain: each producer's filters are its consumer's channels, as in a network."""

    def __init__(self, seed, groups=4, block=4, rigid=()):
        rng = np.random.default_rng(seed)
        self.groups = groups
        self.units = rng.integers(4, 12, groups) * 4
        self.work = rng.uniform(1, 20, groups + 1)
        self.size = rng.uniform(1, 20, groups + 1)
        self.curves, self.choices = {}, {}
        for number, units in enumerate(self.units.tolist()):
            if number not in rigid:
                most = int(0.875 * units)
                points = np.unique(np.round(np.array([0.125, 0.25, 0.5, 0.75]) * units).astype(np.int64))
                slope, power = 10 ** rng.uniform(-4, -1), rng.uniform(0.8, 3)
                self.curves[number] = Curve(points, slope * points.astype(float) ** power)
                self.choices[number] = levels(units, most, block)

    def _chain(self, factors, removed):
        left = self.units - np.asarray(removed, float)
        ends = np.ones((*left.shape[:-1], 1))
        return (np.concatenate([3 * ends, left], -1) * np.concatenate([left, 10 * ends], -1) * factors).sum(-1)

    def macs(self, removed):
        return self._chain(self.work, removed)

    def params(self, removed):
        return self._chain(self.size, removed)

    def limit(self, name, share):
        cost = getattr(self, name)
        return Limit(name, cost, share * float(cost(np.zeros(self.groups))))

    def solve(self, *limits):
        return allocate(self.curves, self.choices, self.groups, list(limits))

    def lost(self, removed):
        return sum(float(curve.at(np.array(removed[number]))) for number, curve in self.curves.items())

    def states(self):
        """All that can be chosen, int64 (states, groups)."""
        each = [self.choices.get(number, np.zeros(1, np.int64)) for number in range(self.groups)]
        return np.array(list(product(*each)))


seeds = st.integers(0, 2**16)
shares = st.floats(0.55, 1.0)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, macs=shares, params=shares)
def test_all_limits_hold_and_nothing_can_be_given_back(seed, macs, params):
    problem = Problem(seed)
    limits = [problem.limit("macs", macs), problem.limit("params", params)]
    removed = problem.solve(*limits)
    assert removed.dtype == np.int64 and removed.shape == (4,)
    assert all(limit.cost(removed) <= limit.most for limit in limits)
    for number, count in enumerate(removed.tolist()):
        assert count in problem.choices[number]
        assert count <= problem.curves[number].removed[-1]
        for fewer in problem.choices[number][problem.choices[number] < count]:
            state = removed.copy()
            state[number] = fewer
            assert any(limit.cost(state) > limit.most for limit in limits)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, share=st.floats(0.5, 0.99))
def test_not_much_more_is_lost_than_by_trying_everything(seed, share):
    problem = Problem(seed, groups=3)
    limit = problem.limit("macs", share)
    states = problem.states()
    held = states[limit.cost(states) <= limit.most]
    losses = [problem.lost(state) for state in held]
    found = problem.lost(problem.solve(limit))
    assert min(losses) * (1 - 1e-9) <= found <= 2 * min(losses)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, steps=st.integers(0, 12))
def test_the_least_is_lost_where_every_unit_costs_the_same(seed, steps):
    """Convex sensitivities that grow from nothing, and a cost that counts units: greedy steps are the best ones."""
    rng = np.random.default_rng(seed)
    points = np.arange(1, 9)
    curves = {number: Curve(points, np.cumsum(np.sort(rng.uniform(0.1, 1, 8)))) for number in range(3)}
    choices = {number: np.arange(9) for number in range(3)}
    limit = Limit("macs", lambda removed: 24.0 - np.asarray(removed).sum(-1), 24.0 - steps)
    removed = allocate(curves, choices, 3, [limit])
    increments = np.sort(np.concatenate([np.diff(curve.divergence, prepend=0) for curve in curves.values()]))
    lost = sum(float(curve.at(removed[number])) for number, curve in curves.items() if removed[number])
    assert removed.sum() == steps
    assert lost == pytest.approx(increments[:steps].sum())


def test_what_leaves_the_outputs_alone_goes_first():
    points = np.array([2, 4])
    curves = {0: Curve(points, np.array([0.2, 0.4])), 1: Curve(points, np.array([0.001, 0.002]))}
    choices = {number: np.array([0, 2, 4]) for number in curves}
    limit = Limit("macs", lambda removed: np.asarray(removed) @ np.array([-1.0, -1.0]), -4.0)
    assert allocate(curves, choices, 2, [limit]).tolist() == [0, 4]


def test_what_saves_most_for_what_it_loses_goes_first():
    """Each step of the second group loses less than that of the first, but two of them are needed."""
    curves = {0: Curve(np.array([2]), np.array([0.2])), 1: Curve(np.array([2, 4]), np.array([0.15, 0.3]))}
    choices = {0: np.array([0, 2]), 1: np.array([0, 2, 4])}
    limit = Limit("macs", lambda removed: np.asarray(removed) @ np.array([-10.0, -5.0]), -20.0)
    assert allocate(curves, choices, 2, [limit]).tolist() == [2, 0]


def test_a_step_that_another_limit_makes_needless_is_taken_back():
    """The second group alone meets both limits, the first, cheap for the other limit, only one."""
    points = np.array([4])
    curves = {0: Curve(points, np.array([0.1])), 1: Curve(points, np.array([1.0]))}
    choices = {number: np.array([0, 4]) for number in curves}
    macs = Limit("macs", lambda removed: np.asarray(removed) @ np.array([-1.0, -1.0]), -4.0)
    size = Limit("bytes", lambda removed: np.asarray(removed) @ np.array([0.0, -1.0]), -4.0)
    assert allocate(curves, choices, 2, [macs]).tolist() == [4, 0]
    assert allocate(curves, choices, 2, [macs, size]).tolist() == [0, 4]


@pytest.mark.parametrize("limits", [[], [Limit("macs", lambda removed: np.zeros(np.shape(removed)[:-1]), 0.0)]])
def test_nobody_loses_anything_where_all_limits_hold_already(limits):
    problem = Problem(0)
    assert problem.solve(*limits).tolist() == [0] * 4


# ---- out of reach


@settings(max_examples=30, deadline=None)
@given(seed=seeds, first=st.sampled_from(["macs", "params"]))
def test_the_limit_that_cannot_be_met_is_named_with_the_least_that_can(seed, first):
    problem = Problem(seed, groups=3)
    states = problem.states()
    usable = np.all([states[:, n] <= curve.removed[-1] for n, curve in problem.curves.items()], axis=0)
    least = float(getattr(problem, first)(states[usable]).min())
    impossible = Limit(first, getattr(problem, first), least * (1 - 1e-6))
    other = problem.limit("params" if first == "macs" else "macs", 0.99)
    with pytest.raises(OutOfReach) as error:
        problem.solve(other, impossible)
    assert error.value.limit is impossible and error.value.least == pytest.approx(least)
    assert str(error.value) == f"{first} cannot be below {least:.4g}"
    reachable = Limit(first, impossible.cost, least * (1 + 1e-9))
    assert reachable.cost(problem.solve(reachable)) <= reachable.most


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_groups_without_a_curve_or_a_choice_stay_whole(seed):
    problem = Problem(seed, rigid=(1,))
    del problem.choices[2]
    with pytest.raises(OutOfReach) as error:
        problem.solve(problem.limit("macs", 1e-3))
    removed = problem.solve(Limit("macs", problem.macs, error.value.least))
    assert removed[[1, 2]].tolist() == [0, 0] and removed[[0, 3]].min() > 0


def test_nothing_goes_where_no_group_may_lose_any():
    limit = Limit("params", lambda removed: 10.0 - np.asarray(removed).sum(-1), 9.0)
    with pytest.raises(OutOfReach) as error:
        allocate({}, {}, 3, [limit])
    assert error.value.least == 10


def test_losses_that_cannot_be_measured_are_not_risked():
    """Half of the first group makes the outputs infinite."""
    curves = {0: Curve(np.array([2, 4]), np.array([0.1, np.inf])), 1: Curve(np.array([2, 4]), np.array([5.0, 9.0]))}
    choices = {number: np.array([0, 2, 3, 4]) for number in curves}
    count = Limit("macs", lambda removed: -np.asarray(removed, float).sum(-1), -5.0)
    assert allocate(curves, choices, 2, [count]).tolist() == [2, 3]


# ---- levels


@settings(max_examples=200)
@given(units=st.integers(1, 3000), block=st.integers(1, 64), share=st.floats(0, 1))
def test_levels_leave_multiples_and_take_no_more_than_allowed(units, block, share):
    most = int(share * units)
    found = levels(units, most, block)
    assert found.dtype == np.int64 and found[0] == 0 and (np.diff(found) > 0).all()
    assert len(found) <= MOST_LEVELS + 1
    assert ((units - found[1:]) % block == 0).all() and (found < units).all() and found.max() <= most


@settings(max_examples=100)
@given(units=st.integers(1, 3000), block=st.integers(1, 64))
def test_few_levels_are_all_there_are(units, block):
    possible = [removed for removed in range(1, units) if (units - removed) % block == 0]
    found = levels(units, units, block)[1:].tolist()
    assert set(found) <= set(possible) and (found == possible or len(possible) > MOST_LEVELS)
    assert found[:1] == possible[:1]


@pytest.mark.parametrize("block", [8, 9])
def test_a_group_of_no_more_than_a_block_stays_whole(block):
    assert levels(8, 7, block).tolist() == [0]


def test_a_group_that_is_no_multiple_is_brought_to_one_first():
    assert levels(21, 20, 8).tolist() == [0, 5, 13]
