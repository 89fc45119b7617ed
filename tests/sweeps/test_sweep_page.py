"""The page of a sweep: it stands alone, and its pictures show what the rows say."""

import xml.etree.ElementTree as ElementTree

import pytest

from lbyl_onnx.sweeps import page
from lbyl_onnx.sweeps.rows import Row, Sweep

pytest.importorskip("jinja2")

CLASSIFIER = [
    Row("in/<b>.onnx", "macs=0.9", "done", macs_share=0.9, divergence=0.01, expected_loss=0.01, told_db=20.0),
    Row("in/<b>.onnx", "macs=0.5", "done", macs_share=0.5, divergence=0.5, expected_loss=0.16, told_db=3.0),
    Row("in/<b>.onnx", "macs=0.1", "refused", "cannot be brought to <0.1>"),
]
OTHER = [Row("in/other.onnx", "macs=0.9", "done", macs_share=0.85, divergence=0.1, sqnr_db=25.0, told_db=10.0)]
BROKEN = [Row("in/broken.onnx", "macs=0.9", "failed", "WorkerDied: it ended")]
SWEEP = Sweep("out", (*CLASSIFIER, *OTHER, *BROKEN))


def test_curves_start_at_the_original_and_go_down_in_macs():
    first, second, third = page.charts(SWEEP)
    assert [chart.title for chart in (first, second, third)] == ["<b>", "other", "broken"]
    assert (first.curve[0].x, first.curve[0].y) == (page.LEFT, page.HEIGHT - page.BOTTOM)
    assert first.curve[0].x < first.curve[1].x < first.curve[2].x == pytest.approx(page.WIDTH - page.RIGHT)
    heights = [page.HEIGHT - page.BOTTOM - mark.y for mark in first.curve]
    assert heights[2] == pytest.approx(4 * heights[1]), "a scale of square roots: 16 points are 4 times as high as 1"
    assert len(third.curve) == 1


def test_axes_are_the_same_for_models_of_a_kind():
    first, second, third = page.charts(SWEEP)
    assert first.across == second.across and [mark.text for mark in first.across][::4] == ["1.00", "0.50"]
    assert [mark.text for mark in first.up] == ["0", "3", "10"]
    assert [mark.text for mark in second.up] == ["0", "1", "10"] and second.up == third.up
    assert second.curve[1].text == "macs=0.9: 10"


def test_the_page_needs_nothing_else_and_obeys_nobody(tmp_path):
    page.write(SWEEP, tmp_path / "sweep.html")
    text = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;" in text and "&lt;0.1&gt;" in text
    assert not any(word in text for word in ("http", "src=", "href=", "url(", "@import", "<script"))
    body = text[text.index("<main>") : text.index("</main>") + len("</main>")]
    sections = ElementTree.fromstring(body).findall("section")
    assert [len(section.findall("svg/circle")) for section in sections] == [3, 2, 0]
    assert "WorkerDied: it ended" in text


def test_without_jinja2_there_is_a_word_and_no_page(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    page.write(SWEEP, tmp_path / "sweep.html")
    assert not list(tmp_path.iterdir()) and "pip install 'lbyl-onnx[report]'" in caplog.text
