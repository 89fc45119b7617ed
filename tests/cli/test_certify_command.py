"""`lbyl-onnx certify`."""

import json

import command_line
import numpy as np
import pytest
from command_line import CNN, DIGITS, assert_refused
from conftest import ROOT

lbyl = command_line.lbyl
FOLDED = ROOT / "models" / "digits_cnn_folded.onnx"


def test_a_certificate_is_words_that_fit_a_terminal(lbyl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = lbyl("certify", CNN, FOLDED, "--data", DIGITS)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    for part in (
        "with 99% confidence for all lines together",
        "share whose top-1 is another",
        "gap of 99% of the inputs",
        "loss of accuracy, points",
        "not checked, and all of the above rests on it",
        "were drawn independently of each other",
    ):
        assert part in words


def test_json_holds_the_same(lbyl):
    code, out, _ = lbyl("certify", CNN, FOLDED, "--data", DIGITS, "--json", "--confidence", 0.9)
    found = json.loads(out)
    assert code == 0 and found["confidence"] == 0.9 and len(found["statements"]) == 4


def test_a_plan_needs_no_models(lbyl):
    code, out, _ = lbyl("certify", "--plan", 0.01)
    assert code == 0 and "459" in out and "597" in out
    assert json.loads(lbyl("certify", "--plan", 0.01, "--json")[1])["quantile"] == [459, 597]


def test_made_up_samples_are_called_so(lbyl):
    code, out, _ = lbyl("certify", CNN, FOLDED, "--samples", 32)
    assert code == 0 and out.startswith("An illustration, no certificate for real inputs")


def test_samples_of_the_run_are_refused(lbyl, tmp_path):
    with np.load(DIGITS) as data:
        np.savez(tmp_path / "mine.npz", image=data["image"][:70])
    small = tmp_path / "small.onnx"
    arguments = ("compress", FOLDED, small, "--ratio", 0.2, "--calibration", tmp_path / "mine.npz", "--no-validate")
    assert lbyl(*arguments, "--quiet")[0] == 0
    refused = lbyl("certify", FOLDED, small, "--data", DIGITS)
    assert_refused(refused, 2, "--data", "70 of 599 samples were used in compression")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "needs two models"),
        ((CNN,), "needs two models"),
        ((CNN, FOLDED), "--data is needed"),
        ((CNN, FOLDED, "--plan", 0.01), "--plan says how many samples"),
        (("--plan", 2), "--plan is 2.0; expected a share"),
        (("--plan", 0.1, "--confidence", 1), "--confidence is 1.0; expected"),
        ((CNN, FOLDED, "--data", DIGITS, "--run", DIGITS), "--run"),
    ],
)
def test_what_makes_no_sense_is_refused(lbyl, arguments, part):
    assert_refused(lbyl("certify", *arguments), 2, part)
