"""The page: every section, whatever the record holds, and nothing that a model says is more than text."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from runs import DEEP, EVIL, bare, page_of, recorded, with_outputs

from lbyl_onnx.calibration.photographs import CREDITS
from lbyl_onnx.evaluation.records import PositionComparison
from lbyl_onnx.evaluation.verdict import DAMAGED, INTACT, RUINED, WORN
from lbyl_onnx.reporting.findings import MEANINGS, both_models, photograph_credits
from lbyl_onnx.reporting.page import page
from lbyl_onnx.reporting.pictures import WORDS, pictures

SECTIONS = ["verdict", "before-and-after", "network", "sensitivity", "frontier", "errors", "latency", "repeat"]


class Parsed(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.text += "" if self.inside in ("script", "style") else data

    def sections(self):
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def count(self, name):
        return sum(tag == name for tag, _ in self.tags)


def words(text):
    return " ".join(Parsed(text).text.split())


@pytest.fixture(scope="module")
def whole():
    return page_of("whole")


@pytest.fixture(scope="module")
def evil():
    return page_of("evil")


def test_every_section_is_there(whole):
    report = replace(recorded(), warnings=())
    assert Parsed(whole).sections() == (["warnings"] if recorded().warnings else []) + SECTIONS
    assert set(pictures(report)) == set(WORDS)
    assert Parsed(whole).count("svg") == 2 * len(WORDS)


def test_it_says_what_the_record_holds(whole):
    report, text = recorded(), words(whole)
    verdict = report.validation.verdict
    assert verdict.reason in text and MEANINGS[verdict.level] in text
    for number in (report.input.bytes, report.output.bytes, report.input.macs, report.output.macs):
        assert f"{number:,}" in text
    assert f"onnxruntime {report.versions.onnxruntime}" in text and report.calibration in text
    assert all(group.name in text for group in report.groups) and all(layer.name in text for layer in report.layers)
    assert all(says in text for _, says, _ in WORDS.values())
    assert f"{report.planned.divergence:.3g}" in text and f"{report.validation.divergence:.3g} were measured" in text


def test_it_is_one_file_that_loads_nothing(whole):
    for tag, attributes in Parsed(whole).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, name, value)
    assert not re.search(r"@import|url\((?!['\"]?#)", whole)
    assert "default-src 'none'" in whole


def test_only_its_own_script_may_run(whole):
    (script,) = re.findall(r"<script>(.*?)</script>", whole, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in whole


def test_it_is_light(whole):
    assert len(whole.encode()) < 300_000


def test_a_deep_network_is_light_too():
    text = page_of("deep")
    assert len(text.encode()) < 1_000_000
    assert f"All {DEEP} layers" in words(text)


def test_names_of_a_model_are_text(evil, whole):
    tags = [tag for tag, _ in Parsed(evil).tags]
    assert tags.count("script") == 1 and "img" not in tags
    assert tags.count("svg") == 2 * len(WORDS) and tags.count("title") == Parsed(whole).count("title")
    assert "{{ 7 * 7 }} font" in words(evil) and "49 font" not in words(evil)
    assert not any(name.startswith("on") for _, attributes in Parsed(evil).tags for name in attributes)
    assert words(evil).count(EVIL) > 10


def test_what_a_terminal_would_obey_is_shown_as_a_question_mark():
    report = recorded()
    hidden = tuple(replace(layer, name="a\x1b[2J\u202eb\x00\ud800") for layer in report.layers)
    text = page(replace(report, layers=hidden))
    assert "a?[2J?b??" in words(text)
    assert not set("\x1b\x00\u202e") & set(text)
    text.encode("utf-8")


def test_warnings_come_first(evil):
    assert Parsed(evil).sections() == ["warnings", *SECTIONS]


def test_weights_alone_and_nothing_compared():
    text = page(bare())
    assert Parsed(text).sections() == SECTIONS and set(pictures(bare())) == {"left"}
    assert "was not compared with the original" in words(text) and "were not timed" in words(text)
    assert "the choice rests on the weights alone" in words(text) and "This was not measured" in words(text)


def test_several_outputs_each_have_their_rows():
    rows = [row.name for row in both_models(with_outputs("scores", "boxes"))]
    assert rows[-4:] == [
        "answers of scores that are the original's",
        "accuracy expected to be lost of scores",
        "signal over error of scores",
        "signal over error of boxes",
    ]


def test_answers_at_positions_have_a_row():
    report = with_outputs("segments")
    (output,) = report.validation.outputs
    output = replace(output, classes=None, positions=PositionComparison(0.875, 0.2))
    rows = both_models(replace(report, validation=replace(report.validation, outputs=(output,))))
    assert [row.after for row in rows if row.name == "answers at positions that are the original's"] == ["87.5 %"]


def test_nothing_that_can_be_compared():
    report = recorded()
    text = page(replace(report, validation=replace(report.validation, outputs=(), verdict=None)))
    assert "No output of the two models could be compared" in words(text)


def test_accuracies_have_intervals():
    validation = replace(recorded().validation, accuracy_before=0.9, accuracy_after=0.8, samples=100)
    row = next(row for row in both_models(replace(recorded(), validation=validation)) if row.name == "accuracy")
    assert (row.before, row.after, row.change) == ("90.0 %", "80.0 %", "-10.0 points")
    assert row.note == "before 95 %: 82.6 to 94.5 %, after 95 %: 71.1 to 86.7 %"


def test_every_verdict_has_a_meaning():
    assert set(MEANINGS) == {INTACT, WORN, DAMAGED, RUINED}


def test_photographs_are_credited_where_they_were_used():
    report = recorded()
    measured = replace(report, calibration="64 crops of 12 photographs, seed 0")
    assert photograph_credits(replace(report, calibration=None, validation=None)) == {}
    fitted = photograph_credits(replace(measured, validation=None))
    assert sum(map(len, fitted.values())) == len(CREDITS) - 2
    judged = replace(measured, validation=replace(report.validation, data="crops of 2 other photographs, seed 0"))
    assert sum(map(len, photograph_credits(judged).values())) == len(CREDITS)
    options = replace(report.options, samples=replace(report.options.samples, calibration="my photographs/"))
    assert photograph_credits(replace(measured, options=options, validation=None)) == {}
