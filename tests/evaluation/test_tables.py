import dataclasses

import pytest
from conftest import ROOT
from uniform import compress

from lbyl_onnx.evaluation import tables
from lbyl_onnx.options import PruneOptions

CNN = ROOT / "models" / "digits_cnn.onnx"


def test_compact_has_three_significant_digits():
    counts = (0, 999, 1000, 18848, 999499, 999500, 123456789, 10**12)
    found = [tables.compact(count) for count in counts]
    assert found == ["0", "999", "1.00k", "18.8k", "999k", "1.00M", "123M", "1.00T"]


@pytest.mark.parametrize("width", range(7, 40))
def test_shorten_keeps_both_ends(width):
    text = "/encoder/layer.0/attention/MatMul"
    short = tables.shorten(text, width)
    assert len(short) == min(width, len(text))
    assert short == text or (short[0] == "/" and "..." in short and short.endswith("ul"))


def test_names_say_how_many_more():
    assert [tables.names(nodes) for nodes in ((), ("a",), ("a", "b", "c"))] == ["", "a", "a +2"]


def test_cut_summary_says_why_groups_were_not_restored():
    report = compress(CNN, 0.5, validation=False).report
    first, *others = report.groups
    left = dataclasses.replace(first.outcome, restored=None, note="Conv 'x' is grouped")
    groups = (dataclasses.replace(first, outcome=left), *others)
    lines = tables.cut_summary(dataclasses.replace(report, groups=groups)).splitlines()
    assert lines[0] == "removed 112 of 234 units in 4 of 5 groups"
    assert lines[1] == ("restored 3 of 4 groups with moments; not the others, mostly because Conv 'x' is grouped")
    plain = dataclasses.replace(report, options=dataclasses.replace(report.options, prune=PruneOptions(restore="none")))
    assert tables.cut_summary(plain).endswith("restored nothing (--restore none)")


def test_change_is_relative():
    assert [tables.change(200, 50), tables.change(2, 3), tables.change(0, 0)] == ["-75.0 %", "+50.0 %", ""]
