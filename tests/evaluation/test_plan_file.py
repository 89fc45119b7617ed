"""Plans as files: what is written is read again, carried out to the letter, and refused where it does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from graphs import Builder

import lbyl_onnx
from lbyl_onnx import PlanReport, UsageError
from lbyl_onnx.budgets import budgets
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.evaluation.plan_file import EXPECTED, executed, read_plan
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import PruneOptions
from lbyl_onnx.selection.plan import reasons_to_leave


def network():
    """Groups of 16, 12 and 4 units, of which the last cannot lose any."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 16, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 16, 12, (1, 1), name="second"))
    return graph.model(graph.conv(hidden, 12, 4, (1, 1), name="last"))


@pytest.fixture(scope="module")
def report():
    return lbyl_onnx.plan(network(), samples=32, round_to=1, target={"macs": 0.7, "params": 0.9})


def edited(report, name, **changes):
    """The plan with one group changed."""
    groups = tuple(replace(group, **changes) if group.name == name else group for group in report.groups)
    return replace(report, groups=groups)


def planned(report, name):
    return next(group for group in report.groups if group.name == name)


def carried_out(report, proto=None, **options):
    model = load(proto or network())
    analysis = analyse(model, probe(model))
    return executed(report, analysis, reasons_to_leave(analysis, PruneOptions(**options)))


def removed(plan):
    return {choice.group.name: np.flatnonzero(choice.removed).tolist() for choice in plan.choices}


# ---- JSON


def test_a_plan_survives_json(report):
    again = PlanReport.from_json(report.to_json())
    assert again == report
    assert again.options.prune.targets == budgets({"macs": 0.7, "params": 0.9})


def test_what_could_not_be_measured_survives_json(report):
    endless = edited(report, "first", curve=((1, 0.5), (2, float("inf"))))
    assert json.loads(endless.to_json())["groups"][0]["curve"] == [[1, 0.5], [2, None]]
    assert PlanReport.from_json(endless.to_json()) == endless


def test_a_plan_file_names_what_is_worth_what(report):
    record = json.loads(report.to_json())
    first, _, last = record["groups"]
    assert (first["name"], first["producers"], first["units"]) == ("first", ["first"], 16)
    assert sorted(first["order"]) == sorted(set(first["order"])) and len(first["order"]) == 14
    counts, losses = zip(*first["curve"], strict=True)
    assert list(counts) == sorted(counts) and list(losses) == sorted(losses)
    assert (last["removed"], last["order"], last["curve"]) == (0, [], []) and "of the model" in last["reason"]


def test_plans_introduce_themselves_briefly(report):
    count = sum(group.removed for group in report.groups)
    assert repr(report) == f"<PlanReport: {count} of 32 units are to go>"


# ---- carried out


def test_a_plan_removes_what_it_says(report):
    plan = carried_out(report)
    assert removed(plan) == {group.name: sorted(group.order[: group.removed]) for group in report.groups}
    assert [choice.criterion for choice in plan.choices] == [
        "plan" if group.removed else None for group in report.groups
    ]
    assert (~plan.kept).sum() == sum(group.removed for group in report.groups)


@pytest.mark.parametrize("count", [0, 1, 9, 14])
def test_a_number_changed_by_hand_counts(report, count):
    first = planned(report, "first")
    plan = carried_out(edited(report, "first", removed=count))
    assert removed(plan)["first"] == sorted(first.order[:count])
    assert len(removed(plan)["second"]) == planned(report, "second").removed


def test_an_order_changed_by_hand_counts(report):
    plan = carried_out(edited(report, "first", removed=3, order=(5, 15, 2, 7)))
    assert removed(plan)["first"] == [2, 5, 15]


def test_a_plan_gives_the_model_that_its_budget_gives(report):
    options = {"samples": 32, "validation": False}
    direct = lbyl_onnx.compress(network(), target={"macs": 0.7, "params": 0.9}, round_to=1, **options)
    assert lbyl_onnx.compress(network(), plan=report, **options).model == direct.model


@pytest.mark.parametrize("written", [False, True])
def test_compress_takes_a_plan_or_its_file(report, tmp_path, written):
    changed = edited(report, "second", removed=5)
    path = tmp_path / "plan.json"
    path.write_text(changed.to_json(), encoding="utf-8")
    result = lbyl_onnx.compress(network(), plan=path if written else changed, samples=32, validation=False)
    left = {group.name: group.units_after for group in result.report.groups}
    assert left == {"first": 16 - planned(report, "first").removed, "second": 7, "last": 4}


@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"target": {"macs": 0.5}}])
def test_a_plan_leaves_nothing_to_ask_for(report, asked):
    with pytest.raises(UsageError, match=r"^plan says already how much goes; leave out ratio and target$"):
        lbyl_onnx.compress(network(), plan=report, **asked)


# ---- refused


def refused(report, proto=None, **options):
    with pytest.raises(UsageError) as error:
        carried_out(report, proto, **options)
    assert error.value.parameter == "plan"
    return error.value.message


def test_plans_of_other_models_are_refused(report):
    graph = Builder()
    other = graph.model(graph.conv(graph.node("Relu", graph.conv(graph.input(), 3, 16, name="first")), 16, 4, name="z"))
    words = refused(report, other)
    assert words == f"does not fit the model: it has 'second', the model 2 groups; expected {EXPECTED}"


def test_plans_with_groups_left_out_are_refused(report):
    words = refused(replace(report, groups=report.groups[:2]))
    assert words == f"does not fit the model: it has '2 groups', the model 3 groups; expected {EXPECTED}"


def test_groups_of_another_size_are_refused(report):
    words = refused(edited(report, "second", units=20))
    assert words == "does not fit the model: group 'second' has 20 units there and 12 in the model"


@pytest.mark.parametrize("count", [-1, 15, 16, 100])
def test_more_units_than_there_are_in_the_order_are_refused(report, count):
    words = refused(edited(report, "first", removed=count))
    assert words == f"does not fit the model: group 'first' is to lose {count} units; from 0 to 14 may go"


def test_one_unit_stays_whatever_the_order(report):
    words = refused(edited(report, "first", removed=16, order=tuple(range(16))))
    assert words == "does not fit the model: group 'first' is to lose 16 units; from 0 to 15 may go"


def test_groups_that_stay_whole_cannot_lose_units(report):
    words = refused(edited(report, "last", removed=1, order=(0, 1)))
    assert words == "does not fit the model: group 'last' cannot lose units: output 'last' of the model"


def test_a_group_that_is_left_out_now_cannot_lose_units(report):
    words = refused(report, exclude="second")
    assert words == "does not fit the model: group 'second' cannot lose units: matched by --exclude"


@pytest.mark.parametrize("order", [(3, 3), (3, 16), (-1, 3)])
def test_orders_with_doubles_or_strangers_are_refused(report, order):
    words = refused(edited(report, "first", removed=2, order=order))
    assert words == (
        "does not fit the model: group 'first' has units in its order that are no free units of the model, or twice"
    )


def test_an_order_that_empties_a_part_is_refused():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 16, name="producer")
    parts = graph.nodes("Split", [hidden, graph.constant([12, 4])], 2, axis=1)
    proto = graph.model(graph.conv(parts[0], 12, 4), graph.conv(parts[1], 4, 4))
    split = lbyl_onnx.plan(proto, samples=32, round_to=1, target={"macs": 0.9})
    whole = edited(split, "producer", order=tuple(reversed(range(16))), removed=3)
    assert removed(carried_out(whole, proto))["producer"] == [13, 14, 15]
    words = refused(replace(whole, groups=edited(whole, "producer", removed=4).groups), proto)
    assert "it leaves no channel of tensor" in words and words.endswith("let fewer units go")


# ---- files that hold no plan


def test_a_plan_in_memory_is_taken_as_it_is(report):
    assert read_plan(report) is report


def unread(path):
    with pytest.raises(UsageError) as error:
        read_plan(path)
    assert error.value.parameter == "plan" and "\n" not in error.value.message
    return error.value.message


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    assert unread(path) == f"{path}: No such file or directory; expected {EXPECTED}"
    assert unread(tmp_path) == f"{tmp_path}: Is a directory; expected {EXPECTED}"


@pytest.mark.parametrize("text", ["", "units: 3", "[]", "null", "3", "{}", '{"groups": []}', "\ufeff{}"])
def test_a_text_that_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    words = unread(path)
    assert words.startswith(f"{path} is no plan (") and words.endswith(f"); expected {EXPECTED}")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert f"{path} is no plan (" in unread(path)


def test_the_report_of_another_command_is_refused(tmp_path):
    path = tmp_path / "report.json"
    result = lbyl_onnx.compress(network(), 0.5, criterion="l2", restore="none", validation=False)
    path.write_text(result.report.to_json(), encoding="utf-8")
    assert f"{path} is no plan (" in unread(path)
