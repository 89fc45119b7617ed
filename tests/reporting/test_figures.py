"""Pictures as files and as elements of the page."""

import builtins
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from runs import EVIL, deep, page_of, recorded, renamed

from lbyl_onnx.errors import UsageError
from lbyl_onnx.reporting.figures import COLOURS, NARROW, SVG, WIDE, inline, png, require_libraries, svg
from lbyl_onnx.reporting.network import errors_in_words, layer_in_words
from lbyl_onnx.reporting.pictures import WORDS, pictures


@pytest.mark.parametrize("name", WORDS)
def test_a_picture_is_an_svg_and_a_png_file(name):
    picture = pictures(recorded())[name]
    root = ElementTree.fromstring(svg(picture))
    assert root.tag == f"{{{SVG}}}svg" and root.get("width")
    assert [title.text for title in root.iter(f"{{{SVG}}}title")]
    pixels = np.asarray(Image.open(io.BytesIO(png(picture))).convert("RGB"))
    assert pixels.shape[1] > 1500 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 3


def test_on_the_page_colours_are_the_pages_and_texts_are_texts():
    text = inline(pictures(recorded())["layers"], WIDE)
    assert not any(colour in text for colour in COLOURS.values())
    assert "var(--kept)" in text and "var(--ink)" in text
    assert "layer, from input to output" in text and "font-family" not in text and "DejaVu" not in text
    assert not re.search(r"<svg[^>]* (width|height)=", text)


def test_a_telephone_gets_a_narrow_one():
    picture = pictures(recorded())["frontier"]
    wide, narrow = (ElementTree.fromstring(inline(picture, width)) for width in (WIDE, NARROW))
    assert (wide.get("class"), narrow.get("class")) == ("wide", "narrow")
    across = [float(each.get("viewBox").split()[2]) for each in (wide, narrow)]
    assert across == pytest.approx([72 * WIDE, 72 * NARROW])


def test_every_layer_and_group_can_be_pointed_at():
    report = deep(70)
    for name, count in (("layers", 70), ("errors", 70), ("sensitivity", 70)):
        root = ElementTree.fromstring(svg(pictures(report)[name]))
        titles = [title.text for title in root.iter(f"{{{SVG}}}title")]
        assert len(titles) == count and all("Conv_" in title for title in titles)


def test_names_are_neither_markup_nor_mathematics():
    for name in ("layers", "sensitivity"):
        root = ElementTree.fromstring(svg(pictures(renamed(EVIL))[name]))
        assert {element.tag.split("}")[1] for element in root.iter()} <= {
            *("svg", "defs", "style", "g", "path", "use", "text", "title", "clipPath", "rect", "tspan")
        }
        assert any(EVIL in (title.text or "") for title in root.iter(f"{{{SVG}}}title"))


def said_by(report, name):
    """What the marks of one picture say."""
    return [title.text for title in ElementTree.fromstring(svg(pictures(report)[name])).iter(f"{{{SVG}}}title")]


def test_what_was_predicted_and_measured_is_shown():
    report = recorded()
    first, *others = report.planned.frontier
    points = (replace(first, measured=0.125), *others)
    planned = replace(report.planned, frontier=points, latency_before_ms=2.0, latency_after_ms=1.5)
    report = replace(report, planned=planned)
    assert "result: 1.5 ms were predicted" in said_by(report, "latency")
    assert "0.125 (measured)" in said_by(report, "frontier")[0]
    assert [text[-11:] for text in said_by(report, "frontier")[-2:]] == ["(predicted)", " (measured)"]
    unknown = replace(report, planned=replace(planned, divergence=np.inf))
    assert len(said_by(unknown, "frontier")) == len(points) + 1


def test_few_groups_are_named_beside_their_lines():
    named = {group.name for group in recorded().planned.groups if group.curve}
    texts = {
        text.text for text in ElementTree.fromstring(svg(pictures(recorded())["sensitivity"])).iter(f"{{{SVG}}}text")
    }
    assert len(named) == 4 and named <= texts


def test_identifiers_differ_between_the_pictures_of_a_page():
    names = re.findall(r' id="([^"]+)"', page_of("whole"))
    assert len(names) == len(set(names)) > 0


def test_layers_in_words():
    report = recorded()
    layer = next(layer for layer in report.layers if layer.channels_after < layer.channels_before)
    said = layer_in_words(3, layer)
    assert said.startswith(f"3. {layer.name} ({layer.op}): ")
    assert f"{layer.channels_before} channels, {layer.channels_after} stay" in said
    group = next(group for group in report.groups if group.errors.ware is not None)
    assert f"{group.errors.ware:.3g} off" in errors_in_words(1, group)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named_with_the_extra(monkeypatch, missing):
    real = builtins.__import__

    def without(name, *given):
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}", name=missing)
        return real(name, *given)

    require_libraries()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=rf"need {missing}, .*pip install 'lbyl-onnx\[report\]'"):
        require_libraries()
