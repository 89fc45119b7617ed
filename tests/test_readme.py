"""The README's Python examples run as they stand, and its tables name the options that there are."""

import re

import onnx
import pytest
import typer
from conftest import ROOT

import lbyl_onnx
from lbyl_onnx.calibration.photographs import CREDITS
from lbyl_onnx.cli.app import app
from lbyl_onnx.restoration import RESTORATIONS
from lbyl_onnx.selection import CRITERIA

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## (.*?)$|^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def example(section: str) -> str:
    """The one Python block of a section."""
    title, found = "", []
    for heading, code in EXAMPLES:
        title = heading or title
        found += [code] if code and title == section else []
    (code,) = found
    return code


def run(code: str) -> dict[str, object]:
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "README.md", "exec"), scope)
    return scope


def test_every_python_example_is_run():
    assert TEXT.count("```python") == len([code for _, code in EXAMPLES if code]) == 2
    assert example("In Python") and example("Quantised models")


def test_python(place, capsys):
    scope = run(example("In Python"))
    share, speedup, before, after, _ = map(float, capsys.readouterr().out.split())
    assert 0.2 < share < 0.6 and speedup > 0
    assert before == pytest.approx(0.995, abs=1e-3) and after > 0.97
    assert scope["report"].options == scope["result"].report.options
    assert isinstance(scope["result"].model, onnx.ModelProto) and len(scope["groups"]) == 5
    assert (place / "small.onnx").is_file()


def test_compressed_first_and_quantised_afterwards(place, capsys):
    found = run(example("Quantised models"))["found"]
    printed = capsys.readouterr().out.strip()
    assert found.samples == 599 - 128 and found.accuracy_after > 0.97
    assert re.fullmatch(r"\d\d\.\d\d% -> \d\d\.\d\d%", printed)
    original, small = (onnx.load(name) for name in ("models/digits_cnn_folded.onnx", "small_int8.onnx"))
    assert any(node.op_type == "DequantizeLinear" for node in small.graph.node)
    assert small.ByteSize() < original.ByteSize() / 4
    with pytest.raises(lbyl_onnx.NothingToRemove, match="quantise afterwards"):
        lbyl_onnx.compress("small_int8.onnx")


def option_table() -> str:
    return TEXT[TEXT.index("| option of `compress`") : TEXT.index("In place of a file")]


def test_the_table_has_every_option_of_compress():
    options = {
        name
        for option in typer.main.get_command(app).commands["compress"].params
        for name in option.opts
        if "--" in name
    }
    assert {name for name in options if f"`{name}" not in option_table()} == {"--help"} & options
    assert set(re.findall(r"--[a-z][a-z0-9-]*", option_table())) <= options


def test_every_option_in_the_text_is_known():
    commands = typer.main.get_command(app).commands.values()
    known = {name for command in commands for option in command.params for name in option.opts}
    lines = re.findall(r"^.*lbyl-onnx (?:compress|inspect|validate).*$", TEXT, re.MULTILINE)
    used = {name for line in lines for name in re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", line.split("#")[0])}
    assert used and used <= known


def test_criteria_and_restorations_are_named():
    rows = {name: row for name, row in re.findall(r"^\| `(--criterion|--restore)` \|(.*)$", TEXT, re.MULTILINE)}
    assert [name for name in CRITERIA if f"`{name}`" not in rows["--criterion"]] == []
    assert [name for name in RESTORATIONS if f"`{name}`" not in rows["--restore"]] == []


def test_photographs_have_the_licences_that_the_package_knows():
    table = TEXT[TEXT.index("| picture | licence") :].split("\n\n")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)[2:]
    told = {name: licence for names, licence in rows for name in re.split(r", (?![^(]*\))|; for judging ", names)}
    assert told == dict(CREDITS.values())


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)$", text, re.MULTILINE)[1] == lbyl_onnx.__version__
    assert f'version = "{lbyl_onnx.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
