"""The site: it builds without a warning and asks no other host for anything; what its pages tell to run, runs.

On the pages in EXECUTED every command and Python block is run in turn, and what it prints is compared with what the
page shows, but for numbers. On the others commands are parsed, and Python is run.
"""

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path

import command_line
import pytest
import typer
import yaml
from conftest import ROOT
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import lbyl_onnx
from lbyl_onnx.budgets import budgets
from lbyl_onnx.cli.app import app
from lbyl_onnx.cli.arguments import parse_targets
from lbyl_onnx.selection.planner import Planner

lbyl = command_line.lbyl

DOCS = ROOT / "docs"
EXECUTED = ("index.md", "tutorial.md")
PARSED = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "howto").glob("*.md"))
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app).commands


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and text of a page's blocks, in order."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each call of the program in a console block."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["lbyl-onnx"]:
            yield words[1:]


def shape_of(text: str) -> str:
    """A text without its numbers, bars and spacing."""
    return " ".join(re.sub(r"[-+]?\d[\d.,]*", "#", re.sub(r"[▁-█]+\.*", "~", text)).split())


@pytest.mark.parametrize("page", EXECUTED)
def test_what_a_page_runs_prints_what_it_shows(page, place, lbyl, monkeypatch):
    """Whatever a busy machine's latencies are, which else decide whether a result is planned again."""
    for again in ("coarsen", "hurry"):
        monkeypatch.setattr(Planner, again, lambda planner: False)
    scope: dict[str, object] = {"__name__": "example"}
    printed, shown = "", 0
    for kind, text in blocks(page):
        if kind == "console":
            for arguments in commands(text):
                code, printed, err = lbyl(*arguments)
                assert code == 0, f"{arguments}: {err}"
        elif kind == "python":
            with redirect_stdout(io.StringIO()) as captured:
                exec(compile(text, page, "exec"), scope)
            printed = captured.getvalue()
        else:
            shown += 1
            assert shape_of(printed) == shape_of(text)
    assert shown >= 2


@pytest.mark.parametrize("page", PARSED)
def test_commands_in_instructions_can_be_given(page):
    for kind, text in blocks(page):
        for name, *arguments in commands(text) if kind == "console" else ():
            values = COMMANDS[name].make_context(name, arguments).params
            budgets(parse_targets(values.get("budget")))
            given = [word for word in arguments if word.startswith("models/")]
            assert all((ROOT / word).is_file() for word in given), f"{page}: {given}"


@pytest.mark.parametrize("line", ["lbyl-onnx compress a b --no-such-option", "lbyl-onnx compress a b --target macs=-1"])
def test_commands_that_cannot_be_given_are_noticed(line, tmp_path, monkeypatch):
    monkeypatch.setattr("test_docs.DOCS", tmp_path)
    (tmp_path / "page.md").write_text(f"```console\n{line}\n```\n")
    with pytest.raises(Exception, match=r"No such option|is no budget"):
        test_commands_in_instructions_can_be_given("page.md")


def test_a_plan_is_edited_by_hand_as_described(place, lbyl):
    page = blocks("howto/plans.md")
    (plan, _), (execute,) = (list(commands(text)) for kind, text in page if kind == "console")
    assert lbyl(*plan, "--samples", 64)[0] == 0
    (code,) = (text for kind, text in page if kind == "python")
    exec(compile(code, "howto/plans.md", "exec"), {})
    assert "removed 16 of 234 units in 1 of 5 groups" in lbyl(*execute, "--samples", 64)[1]


def test_samples_are_written_as_described(place):
    (code,) = (text for kind, text in blocks("howto/samples.md") if kind == "python")
    exec(compile(code, "howto/samples.md", "exec"), {})
    assert lbyl_onnx.validate(*["models/digits_cnn_folded.onnx"] * 2, data="measure.npz").samples == 256


def configuration(folder: Path) -> object:
    return load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with all warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    build(configuration(folder))
    return folder


class Resources(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = ["src", "srcset", "data", "poster"] + (["href"] if tag in ("link", "use", "image") else [])
        if tag != "link" or given.get("rel") not in ("next", "prev", "canonical"):
            self.found += [value for name in fetched if (value := given.get(name))]
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def foreign(address: str) -> bool:
    return re.match(r"\s*['\"]?(?:[a-z]+:)?//", address) is not None


def test_pages_ask_no_other_host_for_anything(site):
    pages = list(site.rglob("*.html"))
    found = {page.name: Resources(page).found for page in pages}
    assert len(pages) > 20 and all(any(name.endswith(".css") for name in names) for names in found.values())
    assert [name for names in found.values() for name in names if foreign(name)] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [
        name for text in styles for name in re.findall(r"(?:url\(|@import\s+)([^);]*)", text) if foreign(name)
    ] == []


def test_requests_to_other_hosts_are_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<link rel="preconnect" href="https://fonts.example"><script src="//cdn.example/a.js"></script>')
    assert [foreign(name) for name in Resources(page).found] == [True, True]


def test_every_page_is_in_the_navigation(site):
    named = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert all((site / name).with_suffix(".html").is_file() for name in named)


def test_broken_links_and_anchors_stop_the_build(tmp_path):
    for name, text in (("page", "[x](nowhere.md)"), ("anchor", "[x](#nowhere)")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "index.md").write_text(f"# Page\n\n{text}\n")
        with pytest.raises(Abort, match="strict"):
            build(
                load_config(
                    str(ROOT / "mkdocs.yml"),
                    docs_dir=str(folder),
                    site_dir=str(tmp_path / "out"),
                    nav=[{"Page": "index.md"}],
                    plugins=[],
                    extra_css=[],
                )
            )


def test_the_reference_has_all_that_the_package_offers(site):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert [name for name in lbyl_onnx.__all__ if f'id="lbyl_onnx.{name}"' not in page] == ["__version__"]


def test_the_options_are_those_of_the_program(site):
    page = (site / "reference" / "options.html").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        section = page.split(f'id="{name}"')[1].split("<h2")[0]
        told = re.findall(r"<code>(--[a-z0-9-]+)", section)
        assert set(told) >= {each.opts[0] for each in command.params if each.param_type_name == "option"} - {"--help"}


def test_pages_from_the_root_are_complete(site):
    for name, words in (("results", "squeezenet11"), ("changelog", "0.1.0"), ("security", "allow_pickle=False")):
        assert words in (site / f"{name}.html").read_text(encoding="utf-8")
    assert "<!-- " not in re.sub(r"<!--\[if.*?-->", "", (site / "results.html").read_text(encoding="utf-8"))


def test_issue_forms_name_what_they_ask_for():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bo]*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        asked = {field["id"]: field for field in form["body"] if field["type"] != "markdown"}
        assert asked["version"]["validations"]["required"] and form["name"] and form["description"]
