"""Restorations by name: registered once, used by name, removed again."""

from unittest.mock import patch

import numpy as np
import pytest
from graphs import Builder
from uniform import compress

from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.errors import NothingToRemove, UsageError
from lbyl_onnx.restoration.methods import RESTORATIONS, Outcome, Restoration, Restored, register, restoration_named


@pytest.fixture(autouse=True)
def as_before():
    """What a test registers is forgotten when it ends."""
    with patch.dict(RESTORATIONS):
        yield


def compressed(restore, **options):
    """Conv "first" (6) → Relu → Conv "last" after `compress` at ratio 0.5."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 6, name="first"))
    proto = graph.model(graph.conv(hidden, 6, 4, name="last"))
    return compress(proto, 0.5, restore=restore, criterion="l2", validation=False, **options)


def test_the_names_that_there_are():
    assert {*RESTORATIONS} == {"moments", "lbyl", "neuron-merging", "none"}
    assert [name for name, each in RESTORATIONS.items() if each.needs_samples] == ["moments"]
    assert [name for name, each in RESTORATIONS.items() if not each.changes_weights] == ["none"]
    assert all(name == each.name for name, each in RESTORATIONS.items())


def test_a_name_registered_twice_is_refused():
    before = RESTORATIONS["lbyl"]
    with pytest.raises(ValueError, match="restoration 'lbyl' is registered twice"):
        register(Restoration("lbyl", lambda task: None))
    assert RESTORATIONS["lbyl"] is before


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match=r"^restore 'lbil' is unknown; expected one of .*lbyl"):
        restoration_named("lbil")
    with pytest.raises(UsageError, match=r"^restore 'lbil' is unknown"):
        compressed("lbil")


def test_a_registered_method_is_used_by_name():
    """It gets the task without samples, as it needs none; its outcomes are those of the report."""
    tasks = []

    def zeroes(task):
        tasks.append(task)
        model = cut(task.analysis, task.plan.kept)
        (consumer,) = task.plan.choices[0].group.consumers
        consumer.weight.write(model, 0 * consumer.weight.read(model))
        return Restored(model, tuple(Outcome("zeroes", error=1.0) for _ in task.plan.choices))

    register(Restoration("zeroes", zeroes))
    result = compressed("zeroes", lambda1=3.0)
    (task,) = tasks
    assert task.calibration is None and task.options.restore == "zeroes" and task.options.lambda1 == 3
    assert result.report.groups[0].outcome == Outcome("zeroes", error=1.0)
    weights = [value for value in result.compressed.weights.values() if value.shape == (4, 3, 3, 3)]
    assert len(weights) == 1 and not np.any(weights[0])


def test_a_method_that_needs_samples_gets_them():
    tasks = []

    def plain(task):
        tasks.append(task)
        return RESTORATIONS["none"].restore(task)

    register(Restoration("plain", plain, needs_samples=True))
    compressed("plain", samples=5)
    (batches,) = (task.calibration.batches for task in tasks)
    assert tasks[0].calibration.synthetic and sum(len(batch["x"]) for batch in batches) == 5


def test_groups_that_a_method_cannot_restore_stay_whole():
    def obstacle(analysis, group):
        return f"{group.name} is not for me" if group.name == "first" else None

    register(Restoration("picky", RESTORATIONS["none"].restore, obstacle=obstacle))
    with pytest.raises(NothingToRemove, match="first is not for me"):
        compressed("picky")
