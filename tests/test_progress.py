"""What is told while a run goes on: to a listener, on a pipe and on a terminal."""

import os
import pty
import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from command_line import CNN, ROOT, lbyl  # noqa: F401
from graphs import Builder
from uniform import UNIFORM, compress

from lbyl_onnx import progress
from lbyl_onnx.cli import screen
from lbyl_onnx.errors import LbylError, MeasurementFailed
from lbyl_onnx.evaluation import latency
from lbyl_onnx.progress import EARLY, SHARES, Progress, Telling, untold
from lbyl_onnx.selection.consumer_moments import Measuring

STAGES = list(SHARES)


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


@pytest.fixture
def clock(monkeypatch):
    """A clock that every look moves on by one second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(seconds)))


def convolutions():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 8, 8, name="middle"))
    return graph.model(graph.conv(hidden, 8, 4, name="last"))


# ---- shares and times


def test_shares_grow_from_nothing_to_all():
    told = []
    telling = Telling(told.append)
    for stage in STAGES:
        telling.stage(stage)
        for part in (0.0, 0.25, 0.5, 1.0):
            telling.layer(f"{stage} {part}", part)
    shares = [each.share for each in told]
    assert shares[0] == 0 and shares[-1] == pytest.approx(1) and max(shares) <= 1
    assert all(second >= first - 1e-12 for first, second in pairwise(shares))
    assert sum(SHARES.values()) == pytest.approx(1) and min(SHARES.values()) > 0
    assert [each.stage for each in told[::5]] == STAGES
    assert [each.layer for each in told[:3]] == ["", f"{STAGES[0]} 0.0", f"{STAGES[0]} 0.25"]


def test_a_stage_that_is_left_out_is_jumped_over():
    told = []
    telling = Telling(told.append)
    telling.stage("analysing")
    telling.stage("restoring")
    assert told[1].share - told[0].share == pytest.approx(
        sum(SHARES[each] for each in STAGES[STAGES.index("analysing") : STAGES.index("restoring")])
    )


@pytest.mark.usefixtures("clock")
def test_the_time_that_remains_is_told_once_it_can_be():
    told = []
    telling = Telling(told.append)
    for stage in STAGES:
        telling.stage(stage)
        telling.layer("conv", 0.5)
    assert [each.seconds for each in told] == list(range(1, len(told) + 1))
    early = [each for each in told if each.share < EARLY]
    assert early and all(each.remaining is None for each in early)
    for each in told[len(early) :]:
        assert each.remaining == pytest.approx(each.seconds / each.share - each.seconds)


def test_nobody_is_told():
    telling = Telling(None)
    telling.stage("restoring")
    telling.layer("conv", 0.5)
    assert untold("conv", 0.5) is None


# ---- the listener of `compress`


def heard(model=None, ratio=0.5, **options):
    told = []
    compress(model or convolutions(), ratio, **{"samples": 16, "progress": told.append, **options})
    return told


def in_order(told):
    """The stages that were told of, each once."""
    return [each.stage for number, each in enumerate(told) if not number or told[number - 1].stage != each.stage]


def test_a_listener_hears_every_stage_in_order():
    told = heard(layer_errors=True)
    assert in_order(told) == [each for each in STAGES if each != "reading"]
    assert all(isinstance(each, Progress) and 0 <= each.share <= 1 for each in told)
    assert all(second.share >= first.share - 1e-12 for first, second in pairwise(told))
    assert all(second.seconds >= first.seconds >= 0 for first, second in pairwise(told))


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, {"measuring"}),
        ({"validation": False}, {"measuring", "validating"}),
        ({"criterion": "l2", "restore": "lbyl"}, {"measuring", "sampling"}),
    ],
)
def test_stages_that_are_not_needed_are_not_told_of(options, missing):
    assert in_order(heard(**options)) == [each for each in STAGES if each not in {"reading", *missing}]


def test_layers_are_named_in_their_order():
    told = heard()
    choosing = [each.layer for each in told if each.stage == "choosing" and each.layer]
    restoring = [each.layer for each in told if each.stage == "restoring" and each.layer]
    assert choosing == ["middle", "last"] and restoring == ["first", "middle", "last"]
    assert all(not each.layer for each in told if each.stage not in ("choosing", "restoring"))


def test_shares_never_go_back_where_something_stands_in(monkeypatch):
    """The criterion fails halfway, another one does its work."""
    moments = Measuring.moments
    calls = []

    def failing(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise MeasurementFailed("no more")
        return moments(self, *arguments)

    monkeypatch.setattr(Measuring, "moments", failing)
    told = heard()
    assert len(calls) == 2 and in_order(told)[-1] == "validating"
    assert all(second.share >= first.share - 1e-12 for first, second in pairwise(told))


def test_what_a_listener_raises_ends_the_run():
    class Enough(Exception):
        pass

    def listener(told):
        if told.stage == "restoring":
            raise Enough

    with pytest.raises(Enough):
        compress(convolutions(), 0.5, samples=16, progress=listener)


def test_a_run_that_fails_has_told_how_far_it_came():
    told = []
    with pytest.raises(LbylError):
        compress(convolutions(), 0.5, exclude=".", progress=told.append)
    assert in_order(told) == ["analysing"]


def test_a_listener_changes_nothing():
    quiet, told = (compress(convolutions(), 0.5, samples=16, progress=each).model for each in (None, lambda _: None))
    assert quiet == told


# ---- the command line


LINE = re.compile(r"^([a-z]+) \(\d+ s\)$")


def test_one_line_for_each_stage_where_there_is_no_terminal(lbyl, tmp_path):  # noqa: F811
    record = tmp_path / "r.json"
    code, out, err = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--samples", 16, "--report", record)
    assert code == 0
    stages = [match[1] for match in map(LINE.match, err.splitlines()) if match]
    assert stages == [each for each in STAGES if each != "reading"]
    rest = [line for line in err.splitlines() if not LINE.match(line)]
    assert all(line.startswith("warning: ") for line in rest) and "\x1b" not in err
    assert not any(LINE.match(line) for line in out.splitlines())


def test_nothing_is_told_when_quiet(lbyl, tmp_path):  # noqa: F811
    code, out, err = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--samples", 16, "--quiet")
    assert code == 0 and out == ""
    assert all(line.startswith("warning: ") for line in err.splitlines())


def test_the_model_on_standard_output_stays_clean(tmp_path):
    command = [sys.executable, "-m", "lbyl_onnx", "compress", CNN, "-", *UNIFORM, "--samples", "16", "--no-validate"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    (tmp_path / "out.onnx").write_bytes(done.stdout)
    assert b"restoring (" in done.stderr and b"restoring (" not in done.stdout
    assert compress(tmp_path / "out.onnx", 0.2, criterion="l2", restore="none", validation=False).report.groups


def test_the_description_of_the_bar():
    told = [
        Progress("restoring", "", 0.05, 1.0, None),
        Progress("restoring", "conv_7", 0.5, 12.4, 12.4),
        Progress("restoring", "a/very/long/name/of/a/layer/deep/inside/conv", 0.5, 1.0, 0.4),
    ]
    first, second, third = map(screen._described, told)
    assert (first, second) == ("restoring", "restoring conv_7, 12 s left")
    assert len(third) <= len("restoring , 0 s left") + screen.LAYER_WIDTH and third.endswith(", 0 s left")


def on_a_terminal(*arguments):
    """Exit code and standard output of our command, and what a terminal got on standard error."""
    return run_on_a_terminal([sys.executable, "-m", "lbyl_onnx", *map(str, arguments)])


def run_on_a_terminal(command, timeout=120):
    """The same of any command."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown, ends = b"", time.monotonic() + timeout
    try:
        while time.monotonic() < ends:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
        out = process.communicate(timeout=timeout)[0]
    finally:
        process.kill()
        os.close(ours)
    return process.returncode, out.decode(), shown.decode()


def left_on_the_screen(shown):
    """The lines that a terminal shows in the end, of texts with carriage returns, erased lines and cursors moved up."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, lines = row + 1, [*lines, ""] if row + 1 == len(lines) else lines
        elif re.fullmatch(r"\x1b\[\d*A", token):
            row = max(row - int(token[2:-1] or 1), 0)
        elif token.endswith("K") and token.startswith("\x1b"):
            lines[row] = "" if token == "\x1b[2K" else lines[row][:column]
        elif not token.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]


def test_what_is_left_on_a_screen():
    """The reading of terminals below, by hand."""
    assert left_on_the_screen("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kthree\n") == ["three"]
    assert left_on_the_screen("\x1b[?25labc\rx\x1b[0m\r\n\x1b[31mred\x1b[0m") == ["xbc", "red"]


def test_a_bar_on_a_terminal_is_gone_in_the_end(tmp_path):
    code, out, shown = on_a_terminal("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--samples", 32)
    assert code == 0 and (tmp_path / "out.onnx").exists() and f"wrote {tmp_path / 'out.onnx'}" in out
    assert re.search(
        r"\d+ % \S*(choosing|restoring|sampling|validating|analysing)", re.sub(r"\x1b\[[0-9;]*m", "", shown)
    )
    assert "Traceback" not in shown and "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    assert all(line.startswith("warning: ") for line in left_on_the_screen(shown))


def test_an_error_behind_a_bar_is_one_line(tmp_path):
    code, out, shown = on_a_terminal("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--exclude", ".")
    assert code == 4 and out == "" and "Traceback" not in shown
    (line,) = [*left_on_the_screen(shown)]
    assert line.startswith("error: ") and "nothing to remove" in line


def test_a_quiet_run_leaves_a_terminal_alone(tmp_path):
    code, out, shown = on_a_terminal("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--samples", 16, "--quiet")
    assert code == 0 and out == "" and "\x1b" not in shown
    assert all(line.startswith("warning: ") for line in shown.splitlines())


BAR = """
import sys, time
from lbyl_onnx.cli import screen
from lbyl_onnx.progress import Progress
with screen.progress() as tell:
    tell(Progress("restoring", sys.argv[1], 0.5, 1.0, 2.0))
    time.sleep(0.5)  # longer than a bar waits until it is drawn again
"""


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("[red]conv", "restoring [red]conv, 2 s left"),
        ("conv[/red]", "restoring conv[/red], 2 s left"),
        ("\x1b[31mconv\x07\n8", "restoring ?[31mconv? 8, 2 s left"),
    ],
)
def test_names_of_layers_are_shown_not_obeyed(layer, expected):
    """Neither markup nor control characters."""
    code, _, shown = run_on_a_terminal([sys.executable, "-c", BAR, layer])
    assert code == 0 and "Traceback" not in shown and "\x07" not in shown and "\x1b[31mconv" not in shown
    assert expected in re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown)
    assert left_on_the_screen(shown) == []
