"""Plans in two rounds: what is asked of the first, and when there is none."""

from types import SimpleNamespace

import numpy as np
import pytest

from lbyl_onnx.budgets import budgets
from lbyl_onnx.errors import MeasurementFailed, NothingToRemove, ValidationFailed
from lbyl_onnx.evaluation.rounds import FIRST_ROUND, in_two_rounds
from lbyl_onnx.selection.allocation import Limit, OutOfReach


class MadeUpPlanner:
    """One group of 1,000 units that cost one each; `most` may go. A plan is how many go, and whether that was known
    from a second look."""

    def __init__(self, most=900, uniform=False):
        self.most, self.looked_again = most, False
        self.options = SimpleNamespace(by_sensitivity=not uniform)
        self.analysis = SimpleNamespace(groups=[None])
        self.seen = []

    def limits(self, targets):
        return [Limit(each.name, lambda removed: 1000 - removed[..., 0], each.most(1000)) for each in targets]

    def counts(self, limits):
        gone = max(0, int(np.ceil(1000 - min(limit.most for limit in limits))))
        if gone > self.most:
            raise OutOfReach(limits[0], 1000 - self.most)
        return np.array([gone])

    def plan_of(self, counts):
        return int(counts[0])

    def plan(self, targets):
        try:
            return int(self.counts(self.limits(targets))[0]), self.looked_again
        except OutOfReach as error:
            raise NothingToRemove(str(error)) from None

    def look_again(self, later, gone):
        self.seen.append((later, int(gone[0])))
        self.looked_again = True


def result(plan):
    return f"what {plan} leave"


def test_half_goes_first_and_the_rest_is_planned_from_there():
    planner = MadeUpPlanner()
    assert in_two_rounds(planner, budgets({"macs": 0.6}), result) == (400, True)
    assert planner.seen == [("what 200 leave", 200)] and FIRST_ROUND == 0.5


def test_a_second_plan_does_not_look_a_third_time():
    planner = MadeUpPlanner()
    in_two_rounds(planner, budgets({"macs": 0.6}), result)
    assert in_two_rounds(planner, budgets({"macs": 0.5}), result) == (500, True)
    assert len(planner.seen) == 1


def test_where_all_groups_lose_the_same_there_is_one_round():
    planner = MadeUpPlanner(uniform=True)
    assert in_two_rounds(planner, budgets({"macs": 0.6}), result) == (400, False)


def test_where_nothing_has_to_go_there_is_no_first_round():
    planner = MadeUpPlanner()
    assert in_two_rounds(planner, budgets({"macs": 1.0}), result) == (0, False)


@pytest.mark.parametrize("error", [MeasurementFailed("no runtime"), ValidationFailed("not finite")])
def test_a_first_result_that_cannot_be_measured_changes_nothing(error):
    def fails(plan):
        raise error

    assert in_two_rounds(MadeUpPlanner(), budgets({"macs": 0.6}), fails) == (400, False)


def test_what_is_out_of_reach_is_said_of_the_whole_budget():
    with pytest.raises(NothingToRemove, match="cannot be below 600"):
        in_two_rounds(MadeUpPlanner(most=400), budgets({"macs": 0.5}), result)
    with pytest.raises(NothingToRemove, match="cannot be below 900"):
        in_two_rounds(MadeUpPlanner(most=100), budgets({"macs": 0.5}), result)
