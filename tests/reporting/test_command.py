"""The command on the page asks for what was asked for."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import CNN, recorded

from lbyl_onnx import cli, compression
from lbyl_onnx.budgets import Budget
from lbyl_onnx.errors import LbylError
from lbyl_onnx.options import Limits, Normalisation, Options, PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.reporting.command import command, from_memory

SHARE = st.floats(0.01, 0.99)
TARGETS = st.one_of(
    st.builds(Budget, st.sampled_from(["macs", "params", "bytes", "latency"]), SHARE, st.just(True)),
    st.builds(Budget, st.sampled_from(["macs", "params", "bytes", "latency"]), st.floats(2, 1e9), st.just(False)),
    st.builds(Budget, st.just("drop"), st.floats(0.1, 50), st.just(False)),
)
SEED = st.integers(0, 9)
NAME = st.none() | st.text("ab.$ '\"-", min_size=1, max_size=5)


@st.composite
def asked(draw):
    seed, targets = draw(SEED), draw(st.lists(TARGETS, max_size=2, unique_by=lambda target: target.name))
    prune = PruneOptions(
        ratio=draw(SHARE) if not targets else draw(st.none() | SHARE),
        scope=draw(st.sampled_from(["chains", "all"])),
        restore=draw(st.sampled_from(["moments", "lbyl", "none"])),
        round_to=draw(st.none() | st.integers(1, 32)),
        include=draw(NAME),
        lambda1=draw(st.sampled_from([100.0, 0.25])),
        seed=seed,
        targets=tuple(targets),
    )
    scale = draw(st.none() | st.builds(Normalisation, st.tuples(SHARE), st.tuples(SHARE)))
    shapes = draw(st.sampled_from([{}, {"image": (1, 1, 8, 8)}]))
    count, kind = draw(st.none() | st.integers(1, 99)), draw(st.sampled_from(["auto", "leaves"]))
    samples = SampleOptions(kind, count, shapes, scale, seed)
    validation = draw(st.booleans())
    limits = Limits(min_sqnr=draw(st.none() | st.floats(-9, 99))) if validation else Limits()
    runtime = RunOptions("cpu", draw(st.none() | st.integers(1, 8)))
    return Options(prune, samples, runtime, limits, None, validation, draw(st.booleans()))


def understood(text):
    """The options that the command line makes of a command."""
    found = []

    def stop(source, options, *others):
        found.append(options)
        raise LbylError("far enough")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compression, "Preparation", stop)
        cli.run(shlex.split(text.replace("\\\n", ""))[1:])
    (options,) = found
    return options


@given(asked())
@settings(max_examples=40, deadline=None)
def test_it_repeats_what_was_asked_for(options):
    report = replace(recorded(), options=options, output=replace(recorded().output, path="not there.onnx"))
    assert understood(command(report)) == options


def test_it_names_the_files_and_leaves_out_defaults():
    lines = command(recorded()).split(" \\\n  ")
    assert shlex.split(lines[0]) == ["lbyl-onnx", "compress", str(CNN), "small.onnx"]
    assert lines[1:] == ["--target=macs=0.6", "--samples=64", "--provider=cpu", "--report=report.html"]


def test_a_plan_is_named():
    report = recorded()
    options = replace(report.options, prune=PruneOptions(), plan="my plan.json")
    assert "'--plan=my plan.json'" in command(replace(report, options=options))


def test_what_came_from_memory_is_known():
    report = recorded()
    assert not from_memory(report)
    assert from_memory(replace(report, options=replace(report.options, plan="given")))
    assert from_memory(replace(report, options=replace(report.options, evaluation="arrays")))
