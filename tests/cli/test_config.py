import json

import command_line
import pytest
from command_line import CNN, assert_refused

from lbyl_onnx import compression, options

lbyl = command_line.lbyl


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that the command works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def seen(monkeypatch):
    """What reaches compress, which is not carried out."""
    found = {}

    def watched(model, ratio, **given):
        found.update(given, ratio=ratio)
        raise options.UsageError("that is all")

    monkeypatch.setattr(compression, "compress", watched)
    return found


FILE = """
[compress]
target = ["macs=0.7", "bytes=400kB"]
scope = "all"
samples = 40
round-to = 4
lambda1 = 2
no-validate = true
calibration = "noise"

[validate]
samples = 7
"""


def test_a_file_gives_defaults(lbyl, folder, seen):
    (folder / "lbyl-onnx.toml").write_text(FILE)
    lbyl("compress", CNN, "out.onnx")
    assert seen["target"] == {"macs": "0.7", "bytes": "400kB"} and seen["validation"] is False
    assert [seen[name] for name in ("scope", "samples", "lambda1", "calibration")] == ["all", 40, 2.0, "noise"]
    assert seen["criterion"] == "obs" and seen["ratio"] is None and seen["round_to"] == 4


def test_the_command_line_wins(lbyl, folder, seen):
    (folder / "lbyl-onnx.toml").write_text(FILE)
    lbyl("compress", CNN, "out.onnx", "--target", "params=0.5", "--samples", "9", "--scope", "chains")
    assert (seen["target"], seen["samples"], seen["scope"]) == ({"params": "0.5"}, 9, "chains")


def test_a_table_of_pyproject(lbyl, folder):
    (folder / "pyproject.toml").write_text("[tool.other]\nx = 1\n[tool.lbyl-onnx.validate]\nsamples = 5\njson = true\n")
    code, out, _ = lbyl("validate", CNN, CNN)
    assert code == 0 and json.loads(out)["samples"] == 5
    (folder / "lbyl-onnx.toml").write_text("[validate]\nsamples = 6\n")
    code, out, _ = lbyl("validate", CNN, CNN)
    assert code == 0 and "compared on 6 samples" in out, "the file of our own counts alone"


def test_a_project_of_others_says_nothing(lbyl, folder):
    (folder / "pyproject.toml").write_text("[tool.other]\nsamples = 'many'\n")
    assert lbyl("inspect", CNN)[0] == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[compress]\nsample = 3", ["compress.sample is no option of compress", "samples"]),
        ("[compress]\nround_to = 'auto'", ["compress.round_to is no option", "round-to"]),
        ("[compress]\nhelp = true", ["compress.help is no option"]),
        (
            "[compres]\nsamples = 3",
            ["'compres' is unknown", "compress, plan, inspect, validate, certify, report, sweep"],
        ),
        ("samples = 3", ["'samples' is unknown"]),
        ("compress = 3", ["compress is no table"]),
        ("[compress]\nsamples = 'many'", ["compress.samples is a str; expected a whole number"]),
        ("[compress]\nsamples = 3.0", ["compress.samples is a float; expected a whole number"]),
        ("[compress]\nsamples = true", ["compress.samples is a bool; expected a whole number"]),
        ("[compress]\nratio = true", ["compress.ratio is a bool; expected a number, or auto in quotes"]),
        ("[compress]\nquiet = 1", ["compress.quiet is an int; expected true or false"]),
        ("[compress]\nscope = 3", ["compress.scope is an int; expected a text in quotes"]),
        ("[compress]\ntarget = 'macs=0.8'", ["compress.target is a str; expected a list, each a text in quotes"]),
        ("[compress]\ntarget = [0.8]", ["compress.target is a list; expected a list, each a text in quotes"]),
        ("[compress]\nscope = ['all']", ["compress.scope is a list; expected a text in quotes"]),
        ("[compress\n", ["cannot be read as TOML"]),
    ],
)
@pytest.mark.parametrize("command", [("inspect", CNN), ("compress", CNN, "out.onnx")])
def test_wrong_keys_and_values(lbyl, folder, command, text, parts):
    (folder / "lbyl-onnx.toml").write_text(text)
    assert_refused(lbyl(*command), 2, "lbyl-onnx.toml: ", *parts)


def test_a_wrong_table_of_pyproject(lbyl, folder):
    for text, key in (("[tool]\nlbyl-onnx = 3", "lbyl-onnx"), ("tool = 3", "tool")):
        (folder / "pyproject.toml").write_text(text)
        assert_refused(lbyl("inspect", CNN), 2, f"pyproject.toml: {key} is no table")
    (folder / "pyproject.toml").write_text("[tool.lbyl-onnx.inspect]\nshapes = []")
    assert_refused(lbyl("inspect", CNN), 2, "pyproject.toml: inspect.shapes is no option of inspect")


def test_values_are_checked_as_options_are(lbyl, folder):
    (folder / "lbyl-onnx.toml").write_text("[compress]\nscope = 'everything'")
    assert_refused(lbyl("compress", CNN, "out.onnx"), 2, "--scope 'everything' is unknown")


def test_help_shows_the_defaults_that_hold(lbyl, folder):
    (folder / "lbyl-onnx.toml").write_text("[compress]\nscope = 'all'")
    assert "[default: all]" in lbyl("compress", "--help")[1]
