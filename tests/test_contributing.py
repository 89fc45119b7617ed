"""The examples of docs/contributing.md: a rule that is in the repository, a criterion and a restoration to add."""

import re

import numpy as np
import pytest
from conftest import ROOT
from graphs import Builder, plan_for

from lbyl_onnx import compress, load
from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.restoration import from_weights, methods
from lbyl_onnx.selection import criteria, importance

TEXT = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
TESTING = {"np": np, "Builder": Builder, "plan_for": plan_for, "compress": compress, "load": load} | {
    "analyse": analyse,
    "probe": probe,
}


def examples(title: str) -> list[str]:
    """The Python blocks of one section."""
    section = re.split(r"^## ", TEXT.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run_test(code: str) -> None:
    """The one test that a block defines."""
    scope = dict(TESTING)
    exec(compile(code, "docs/contributing.md", "exec"), scope)
    (test,) = (value for name, value in scope.items() if name.startswith("test_"))
    test()


def test_every_example_belongs_to_a_section():
    titles = ("Adding a rule", "Adding a criterion", "Adding a restoration")
    assert sum(len(examples(title)) for title in titles) == TEXT.count("```python")


def test_the_rule_and_its_test_are_in_the_repository():
    rule, test = examples("Adding a rule")
    assert rule in (ROOT / "lbyl_onnx/channels/rules/sampling.py").read_text(encoding="utf-8")
    assert test in (ROOT / "tests/channels/rules/test_sampling.py").read_text(encoding="utf-8")


def test_the_criterion_works(monkeypatch):
    monkeypatch.setattr(criteria, "CRITERIA", dict(criteria.CRITERIA))
    function, test = examples("Adding a criterion")
    with pytest.raises(Exception, match="'peak' is unknown"):
        run_test(test)
    exec(compile(function, "docs/contributing.md", "exec"), dict(vars(importance)))
    run_test(test)


def test_the_restoration_works(monkeypatch):
    monkeypatch.setattr(methods, "RESTORATIONS", dict(methods.RESTORATIONS))
    function, test = examples("Adding a restoration")
    with pytest.raises(Exception, match="'projection' is unknown"):
        run_test(test)
    exec(compile(function, "docs/contributing.md", "exec"), dict(vars(from_weights)))
    run_test(test)
    run_test(test.replace('"projection"', '"neuron-merging"').replace("max_error <", "max_error >"))
