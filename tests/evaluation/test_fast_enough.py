"""Results that are timed and planned again: a made-up planner, and results that take as long as it says."""

from types import SimpleNamespace

import pytest

from lbyl_onnx.budgets import budgets
from lbyl_onnx.errors import NothingToRemove
from lbyl_onnx.evaluation.fast_enough import NOISE, Made, fast_enough
from lbyl_onnx.evaluation.records import Validation
from lbyl_onnx.options import PruneOptions

BEFORE = 10.0


class MadeUpPlanner:
    """Plans are named by their blocks; coarser ones can be had unless `coarse` is False, faster ones if `fast`."""

    def __init__(self, coarse=True, fast=False, **target):
        self.options = PruneOptions(targets=budgets(target))
        self.analysis = SimpleNamespace(model=SimpleNamespace(name="the model"))
        self.latency_factor = 1.0
        self.blocks = "fine"
        self._coarse, self._fast = coarse, fast

    def coarsen(self):
        changes = self._coarse and self.blocks == "fine"
        self.blocks = "coarse" if changes else self.blocks
        return changes

    def refine(self):
        self.blocks = "fine"

    def hurry(self):
        self.blocks += " and fast" if self._fast else ""
        return self._fast

    def relax(self):
        self.blocks = self.blocks.removesuffix(" and fast")


def took(milliseconds, plan="plan"):
    """A result of this latency, of an original that takes BEFORE."""
    validation = Validation("cpu", "drawn", 1, (), 1, BEFORE, milliseconds)
    return Made(plan, None, (), validation)


class Maker:
    """Makes results that take so long, one after the other, and notes what they were made from."""

    def __init__(self, planner, *results):
        self._planner, self._results = planner, list(results)
        self.seen = []

    def __call__(self):
        self.seen.append((self._planner.blocks, self._planner.latency_factor))
        result = self._results.pop(0)
        if isinstance(result, Exception):
            raise result
        return took(result, self._planner.blocks)


def made(planner, *results):
    """What is kept, and what was made."""
    make = Maker(planner, *results)
    return fast_enough(planner, make), make.seen


# ---- slower than the original


@pytest.mark.parametrize("milliseconds", [1, BEFORE / 2, BEFORE / NOISE * 0.999])
def test_what_is_faster_beyond_noise_is_kept_at_once(milliseconds):
    found, seen = made(MadeUpPlanner(), milliseconds)
    assert found.validation.latency_after_ms == milliseconds and seen == [("fine", 1.0)]


@pytest.mark.parametrize(("second", "kept"), [(9, "coarse"), (11.9, "coarse"), (12.1, "fine"), (30, "fine")])
def test_a_slower_result_is_made_coarser_and_the_faster_of_both_kept(second, kept):
    found, seen = made(MadeUpPlanner(), 12, second)
    assert seen == [("fine", 1.0), ("coarse", 1.0)]
    assert (found.plan, found.validation.latency_after_ms) == (kept, min(12, second))


def test_a_slower_result_stays_where_nothing_can_be_coarser():
    found, seen = made(MadeUpPlanner(coarse=False), 12)
    assert found.plan == "fine" and len(seen) == 1


def test_a_slower_result_stays_where_coarser_blocks_are_out_of_reach():
    planner = MadeUpPlanner()
    found, seen = made(planner, 12, NothingToRemove("out of reach"))
    assert found.plan == "fine" and len(seen) == 2 and planner.blocks == "fine"


@pytest.mark.parametrize(
    ("results", "kept"),
    [
        ((12, 11, 9), "coarse and fast"),
        ((12, 13, 9), "fine and fast"),
        ((12, 11, 11.5), "coarse"),
        ((12, 9), "coarse"),
        ((12, 10.2), "coarse"),
    ],
)
def test_what_is_slower_still_is_planned_by_latency(results, kept):
    planner = MadeUpPlanner(fast=True)
    found, seen = made(planner, *results)
    assert found.plan == kept == planner.blocks and len(seen) == len(results)


def test_a_slower_result_stays_where_faster_ones_are_out_of_reach():
    planner = MadeUpPlanner(coarse=False, fast=True)
    found, seen = made(planner, 12, NothingToRemove("out of reach"))
    assert found.plan == planner.blocks == "fine" and len(seen) == 2


def test_other_targets_ask_for_no_speed():
    found, seen = made(MadeUpPlanner(coarse=False, macs=0.5, drop=1), BEFORE)
    assert found.plan == "fine" and len(seen) == 1


# ---- a latency that was asked for


@pytest.mark.parametrize("target", [0.5, "5ms"])
@pytest.mark.parametrize("milliseconds", [4, 5, 5 * NOISE * 0.999])
def test_a_latency_that_is_reached_is_kept(target, milliseconds):
    found, seen = made(MadeUpPlanner(latency=target), milliseconds)
    assert found.validation.latency_after_ms == milliseconds and len(seen) == 1


@pytest.mark.parametrize("target", [0.5, "5ms"])
def test_a_latency_that_is_missed_is_corrected_once(target):
    found, seen = made(MadeUpPlanner(latency=target), 6, 5)
    assert found.validation.latency_after_ms == 5
    assert seen == [("fine", 1.0), ("fine", pytest.approx(6 / 5))]


def test_the_correction_is_that_of_the_result_that_was_kept():
    _, seen = made(MadeUpPlanner(latency=0.5), 12, 8, 5)
    assert seen == [("fine", 1.0), ("coarse", 1.0), ("coarse", pytest.approx(8 / 5))]


def test_a_latency_that_is_missed_twice_is_refused_with_what_was_measured():
    with pytest.raises(NothingToRemove) as error:
        made(MadeUpPlanner(latency="5ms"), 8, 6.543)
    assert str(error.value) == (
        "the model: latency=5 ms was not reached: 6.54 ms measured, original 10 ms; allow 0.65 of the original's, "
        "or let more groups lose units with --scope all"
    )


def test_a_correction_out_of_reach_is_refused():
    with pytest.raises(NothingToRemove, match="out of reach"):
        made(MadeUpPlanner(latency=0.5), 8, NothingToRemove("out of reach"))


# ---- without validation


@pytest.mark.parametrize("target", [{}, {"latency": 0.5}])
def test_nothing_is_done_about_what_was_not_timed(target):
    planner, calls = MadeUpPlanner(**target), []
    untimed = Made("plan", None, (), None)

    def make():
        calls.append(planner.blocks)
        return untimed

    assert fast_enough(planner, make) is untimed
    assert calls == ["fine"] and planner.latency_factor == 1.0
