import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper

import lbyl_onnx
from lbyl_onnx import cli, compression
from lbyl_onnx.errors import ValidationFailed
from lbyl_onnx.evaluation import tables, validation
from lbyl_onnx.model import file as model_file

CNN = ROOT / "models" / "digits_cnn.onnx"
DIGITS = ROOT / "models" / "digits_eval.npz"


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(validation, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(validation, "LATENCY_PAIRS", (1, 3))


@pytest.fixture
def lbyl(capsys, monkeypatch):
    """Runs a command: (exit code, standard output, standard error)."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_refused(result, code, *parts):
    """Exit code, and one line on standard error that contains all parts."""
    found, out, err = result
    assert found == code, err
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def chain(names=("first", "second"), weight=None):
    """x -> Gemm -> Relu -> Gemm -> y with 2, 8 and 3 features."""
    weights = {
        "w0": np.random.default_rng(0).standard_normal((2, 8)) if weight is None else weight,
        "w1": np.random.default_rng(1).standard_normal((8, 3)),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["h"], names[0]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1"], ["y"], names[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- compress


def test_compress_writes_model_and_report(lbyl, tmp_path):
    out, record = tmp_path / "out.onnx", tmp_path / "report.json"
    code, printed, err = lbyl("compress", CNN, out, "--ratio", "0.25", "--round-to", "8", "--report", record)
    assert code == 0 and files(tmp_path) == ["out.onnx", "report.json"]
    assert all(line.startswith("warning: ") for line in err.splitlines())

    report = json.loads(record.read_text())
    assert report["input"]["path"] == str(CNN) and report["input"]["bytes"] == CNN.stat().st_size
    assert report["output"]["path"] == str(out) and report["output"]["bytes"] == out.stat().st_size
    assert [group["units_after"] for group in report["groups"]] == [24, 48, 48, 48, 10]
    assert report["groups"][-1]["frozen_reason"] and report["validation"]["samples"] == 16
    assert {"parameters", "macs"} < set(report["output"]) and report["seconds"] > 0
    assert report["groups"][0]["residual_error"] > 0 and report["groups"][0]["ware"] > 0
    assert report["options"]["ratio"] == 0.25 and report["options"]["round_to"] == 8

    assert f"{report['output']['parameters']:,}" in printed and f"{report['output']['bytes']:,}" in printed
    assert "removed 56 of 234 units in 4 of 5 groups" in printed and "SQNR" in printed
    assert printed.splitlines()[-1] == f"wrote {out}"
    assert lbyl_onnx.inspect(out).input.parameters == report["output"]["parameters"]


def test_compress_passes_every_option_on(lbyl, tmp_path, monkeypatch):
    seen = {}

    def compress(model, ratio, **options):
        seen.update(options, model=model, ratio=ratio)
        return compression.compress(model, ratio, **options)

    monkeypatch.setattr(lbyl_onnx, "compress", compress)
    options = {
        **{"ratio": 0.5, "restore": "neuron-merging", "criterion": "l1", "lambda1": 0.25, "lambda2": 0.75},
        **{"scope": "all", "round_to": 2, "include": "layer[23]", "exclude": "layer3", "seed": 3},
        **{"provider": "cpu"},
    }
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    code, printed, _ = lbyl("compress", CNN, tmp_path / "out.onnx", *arguments, "--no-validate")
    assert code == 0
    assert {name: seen[name] for name in options} == options and seen["validation"] is False
    assert "removed 32 of 234 units in 1 of 5 groups" in printed
    assert "not compared" in printed and "latency" not in printed


def test_sizes_and_scales_reach_every_command(lbyl, tmp_path):
    """The model declares any size of images, but takes one only."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, "H", "W")), 3, 8))
    onnx.save(graph.model(graph.gemm(graph.node("Flatten", hidden), 8 * 6 * 5, 4)), tmp_path / "m.onnx")
    files = tmp_path / "m.onnx", tmp_path / "out.onnx"
    looks = "--shape", "x:1x3x6x5"
    assert_refused(lbyl("compress", *files), 4, "--shape")
    code, printed, _ = lbyl("compress", *files, *looks, "--input-range", "0,255")
    assert (
        code == 0 and "measured on 512 synthetic samples, seed 0, x 3x6x5, normalised by mean 0, std 0.00392" in printed
    )
    assert "16x4" in printed and "to compare on real samples" not in printed
    assert lbyl("validate", *files, *looks, "--mean", "0.5", "--std", "0.5")[0] == 0
    assert lbyl("inspect", files[0], *looks)[0] == 0


def test_given_samples_come_with_advice(lbyl, tmp_path):
    out = tmp_path / "out.onnx"
    code, printed, _ = lbyl("compress", CNN, out, "--calibration", DIGITS)
    assert code == 0 and f"to compare on real samples: lbyl-onnx validate {CNN} {out} --data EVAL.npz" in printed


def test_quiet_prints_warnings_only(lbyl, tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "_warnings", lambda *_: ("slower than before",))
    code, out, err = lbyl("compress", CNN, tmp_path / "out.onnx", "--quiet")
    assert (code, out, err) == (0, "", "warning: slower than before\n")


def test_existing_output_needs_force(lbyl, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    assert_refused(lbyl("compress", CNN, out), 2, str(out), "exists already", "--force")
    assert out.read_text() == "mine"
    assert lbyl("compress", CNN, out, "--force", "--quiet")[0] == 0
    assert lbyl_onnx.inspect(out).groups


def test_input_is_overwritten_with_force_only(lbyl, tmp_path):
    model, record = tmp_path / "model.onnx", tmp_path / "report.json"
    content = CNN.read_bytes()
    model.write_bytes(content)
    assert_refused(lbyl("compress", model, model), 2, "is the input model", "--force")
    assert model.read_bytes() == content
    assert lbyl("compress", model, model, "--force", "--report", record)[0] == 0
    report = json.loads(record.read_text())
    assert (report["input"]["bytes"], report["output"]["bytes"]) == (len(content), model.stat().st_size)


def test_external_data_counts_and_goes_with_a_failed_report(lbyl, tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir(), out.mkdir()
    onnx.save(onnx.load(CNN), source / "m.onnx", save_as_external_data=True, location="m.bin")
    arguments = ("compress", source / "m.onnx", out / "m.onnx", "--report", out / "r.json", "--no-validate")
    assert lbyl(*arguments)[0] == 0
    report = json.loads((out / "r.json").read_text())
    for side, folder in (("input", source), ("output", out)):
        assert report[side]["bytes"] == sum(p.stat().st_size for p in folder.iterdir() if p.suffix != ".json")

    for file in out.iterdir():
        file.unlink()
    replace = os.replace

    def refuse_report(old, new):
        if str(new).endswith("r.json"):
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse_report)
    assert_refused(lbyl(*arguments), 2, "r.json", "No space left on device")
    assert files(out) == []
    assert_refused(lbyl("compress", source / "m.onnx", *arguments[1:2], *arguments[3:], "--force"), 2, "r.json")
    assert lbyl_onnx.inspect(source / "m.onnx").groups


def test_targets_are_checked_before_the_work(lbyl, tmp_path, monkeypatch):
    monkeypatch.setattr(lbyl_onnx, "load", lambda _: pytest.fail("the work began"))
    out = tmp_path / "out.onnx"
    missing = tmp_path / "missing"
    assert_refused(lbyl("compress", CNN, missing / "out.onnx"), 2, str(missing), "does not exist")
    assert_refused(lbyl("compress", CNN, tmp_path), 2, "is a folder")
    assert_refused(lbyl("compress", CNN, tmp_path / ("x" * 300)), 2, "cannot be written")
    assert_refused(lbyl("compress", CNN, out, "--report", missing / "r.json"), 2, "r.json", "does not exist")
    assert_refused(lbyl("compress", CNN, out, "--report", tmp_path), 2, "is a folder")
    assert_refused(lbyl("compress", CNN, out, "--report", CNN), 2, "--report")
    assert_refused(lbyl("compress", CNN, out, "--report", out), 2, "--report")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_refused(lbyl("compress", CNN, out), 2, str(tmp_path), "not writable")
    assert files(tmp_path) == []


# ---- exit codes


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--ratio", "1.5", "--ratio is 1.5"),
        ("--ratio", "1", "[0, 1)"),
        ("--ratio", "-0.1", "--ratio"),
        ("--ratio", "nan", "--ratio"),
        ("--ratio", "much", "--ratio"),
        ("--restore", "magic", "lbyl"),
        ("--criterion", "magic", "bn-scale"),
        ("--scope", "magic", "chains or all"),
        ("--round-to", "0", "--round-to"),
        ("--round-to", "2.5", "--round-to"),
        ("--seed", "-1", "--seed is -1"),
        ("--lambda1", "-1", "--lambda1"),
        ("--lambda2", "inf", "--lambda2"),
        ("--include", "conv(", "--include"),
        ("--exclude", "*", "--exclude"),
        ("--provider", "tpu", "tpu"),
        ("--colour", "red", "--colour"),
    ],
)
def test_bad_options(lbyl, tmp_path, option, value, part):
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", option, value), 2, part)
    assert files(tmp_path) == []


def test_wrong_commands(lbyl):
    assert_refused(lbyl(), 2, "lbyl-onnx --help")
    assert_refused(lbyl("shrink"), 2, "shrink")
    assert_refused(lbyl("compress", CNN), 2, "OUT", "lbyl-onnx compress --help")
    assert_refused(lbyl("validate", CNN, CNN, "--samples", "0"), 2, "samples")
    assert_refused(lbyl("validate", CNN, CNN, "--data", "nowhere.npz"), 2, "nowhere.npz")


def make_bad(kind, path):
    """A model that cannot be read, and what must be said of it."""
    if kind == "text":
        path.write_text("This is not a model.\n" * 20)
    elif kind == "truncated":
        path.write_bytes(CNN.read_bytes()[:100_000])
    elif kind == "empty file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty graph":
        proto = chain()
        del proto.graph.node[:]
        onnx.save(proto, path)
    elif kind == "NaN":
        onnx.save(chain(weight=np.full((2, 8), np.nan)), path)
    elif kind == "unknown domain":
        proto = chain()
        proto.graph.node[1].domain = "com.example"
        onnx.save(proto, path)
    elif kind.startswith("external"):
        onnx.save(chain(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
        path.with_name("m.bin").unlink()
        if kind == "external outside":
            proto = onnx.load(path, load_external_data=False)
            for tensor in proto.graph.initializer:
                tensor.external_data[0].value = "../m.bin"
            path.write_bytes(proto.SerializeToString())


BAD = {
    "missing": "no such file",
    "text": "not an ONNX",
    "truncated": "truncated",
    "empty file": "empty",
    "folder": "not a file",
    "empty graph": "empty graph",
    "NaN": "NaN",
    "unknown domain": "com.example",
    "external missing": "missing",
    "external outside": "outside the model's folder",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_models(lbyl, tmp_path, kind):
    model, folder = tmp_path / "model.onnx", tmp_path / "out"
    folder.mkdir()
    make_bad(kind, model)
    target = ("compress", model, folder / "out.onnx", "--report", folder / "r.json")
    for command in (target, ("inspect", model), ("inspect", model, "--json"), ("validate", model, CNN)):
        assert_refused(lbyl(*command), 3, str(model), BAD[kind])
    assert files(folder) == []


def test_nothing_to_remove(lbyl, tmp_path):
    for options in (("--ratio", "0"), ("--include", "no such node"), ("--round-to", "64")):
        result = lbyl("compress", CNN, tmp_path / "out.onnx", "--report", tmp_path / "r.json", *options)
        assert_refused(result, 4, "nothing to remove")
    assert files(tmp_path) == []


def test_failed_validation_writes_nothing(lbyl, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValidationFailed("output 'logits' is not finite")

    monkeypatch.setattr(compression, "validate", fail)
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", "--report", tmp_path / "r.json"), 5, "logits")
    assert files(tmp_path) == []
    assert lbyl("compress", CNN, tmp_path / "out.onnx", "--no-validate")[0] == 0


@pytest.mark.parametrize("moment", [(lbyl_onnx, "compress"), (model_file, "_publish"), (cli, "_write_text")])
def test_interruption_leaves_nothing(lbyl, tmp_path, monkeypatch, moment):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(*moment, interrupt)
    result = lbyl("compress", CNN, tmp_path / "out.onnx", "--report", tmp_path / "r.json", "--no-validate")
    assert_refused(result, 130, "interrupted")
    assert files(tmp_path) == []


def test_unexpected_errors_are_one_line(lbyl, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("first line\nsecond \x1b[31mline")

    monkeypatch.setattr(lbyl_onnx, "inspect", fail)
    monkeypatch.delenv("LBYL_ONNX_DEBUG", raising=False)
    line = "internal error: ZeroDivisionError: first line second ?[31mline; please report it\n"
    assert lbyl("inspect", CNN) == (1, "", line)
    monkeypatch.setenv("LBYL_ONNX_DEBUG", "1")
    code, _, err = lbyl("inspect", CNN)
    assert code == 1 and err.startswith("Traceback") and err.endswith(line)


def test_lack_of_memory_is_no_internal_error(lbyl, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(lbyl_onnx, "inspect", fail)
    assert_refused(lbyl("inspect", CNN), 1, "out of memory")


# ---- inspect and validate


def test_inspect_json_is_nothing_but_json(lbyl):
    code, out, err = lbyl("inspect", CNN, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(lbyl_onnx.inspect(CNN).to_json())


def test_inspect_lists_every_group(lbyl):
    code, out, err = lbyl("inspect", CNN)
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[1] == ["/layer1/conv/Conv", "/layer2/conv/Conv", "32", "18.8k", "1.20M", "yes"]
    assert "no: output 'logits' of the model" in out.splitlines()[5]
    assert "122,474 parameters, 1,854,080 MACs" in out
    assert "5 groups: 4 removable with --scope chains, 4 with --scope all" in out


def test_inspect_fits_the_terminal_and_never_cuts_a_pipe(lbyl, tmp_path, monkeypatch):
    first, second = ("/".join(["", *["block"] * 12, name, "Gemm"]) for name in ("first", "second"))
    onnx.save(chain((first, second)), tmp_path / "m.onnx")
    piped = lbyl("inspect", tmp_path / "m.onnx")[1].splitlines()
    assert piped[1].split()[:2] == [first, second]
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        out = lbyl("inspect", tmp_path / "m.onnx")[1]
        assert max(map(len, out.splitlines())) <= width
        assert "first/Gemm " in out and " -> /block/" in out and "second/Gemm " in out


def test_hostile_names_are_shown_not_obeyed(lbyl, tmp_path):
    onnx.save(chain(("[bold]a\x1b[2Jb\nc", ":smile:")), tmp_path / "m.onnx")
    out = lbyl("inspect", tmp_path / "m.onnx")[1]
    assert "[bold]a?[2Jb c" in out and ":smile:" in out and "\x1b" not in out


def test_validate_prints_agreement_latency_and_accuracy(lbyl):
    code, out, err = lbyl("validate", CNN, CNN, "--data", DIGITS, "--provider", "cpu")
    assert (code, err) == (0, "")
    latency, accuracy = out.splitlines()[1:3]
    assert latency.split()[0] == "latency" and latency.split()[2] == "ms"
    assert accuracy.split() == ["accuracy", "99.50", "%", "99.50", "%", "+0.00", "points"]
    assert "compared on 599 samples" in out and "599x10" in out
    assert out.rstrip().splitlines()[-1].split()[2:] == ["0", "0", "inf", "1.0000", "100.0%"]


def test_validate_json(lbyl, tmp_path):
    onnx.save(chain(), tmp_path / "a.onnx")
    onnx.save(chain(weight=np.ones((2, 8))), tmp_path / "b.onnx")
    code, out, err = lbyl(
        "validate", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json", "--samples", "5", "--seed", "7"
    )
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["samples"], record["data"]) == (5, "synthetic, seed 7")
    assert record["outputs"][0]["shape"] == [5, 3] and record["outputs"][0]["max_error"] > 0
    assert record["accuracy_before"] is None and record["latency_before_ms"] > 0


def test_validate_tells_which_model_fails(lbyl, tmp_path):
    onnx.save(chain(), tmp_path / "other.onnx")
    assert_refused(lbyl("validate", CNN, tmp_path / "other.onnx"), 5, "inputs differ")
    assert_refused(lbyl("validate", CNN, tmp_path / "missing.onnx"), 5, "missing.onnx")


# ---- the process


def test_help_and_version(lbyl):
    assert lbyl("--version") == (0, f"lbyl-onnx {lbyl_onnx.__version__}\n", "")
    code, out, _ = lbyl("compress", "--help")
    assert code == 0
    for option in ("--ratio", "--round-to", "--no-validate", "lbyl|neuron-merging|none", "[default: 0.3]"):
        assert option in out


def test_spinner_only_on_a_terminal(capsys, monkeypatch):
    with cli._progress("reading") as progress:
        progress("probing")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with cli._progress("reading") as progress:
        progress("probing")
    assert "probing" in capsys.readouterr().err
    with cli._progress("reading", quiet=True) as progress:
        progress("probing")
    assert capsys.readouterr().err == ""


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lbyl_onnx", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_exit_code_of_the_process(tmp_path):
    process = start("inspect", tmp_path / "missing.onnx")
    out, err = process.communicate()
    assert (process.returncode, out) == (3, b"") and err.startswith(b"error: ")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs SIGPIPE")
def test_broken_pipe_is_quiet():
    process = start("inspect", CNN, "--json")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE


# ---- tables


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
    report = lbyl_onnx.compress(CNN, 0.5, validation=False).report
    first, *others = report.groups
    groups = (dataclasses.replace(first, restored=None, note="Conv 'x' is grouped"), *others)
    lines = tables.cut_summary(dataclasses.replace(report, groups=groups)).splitlines()
    assert lines[0] == "removed 112 of 234 units in 4 of 5 groups"
    assert lines[1] == ("restored 3 of these 4 groups with moments; not the others, mostly because Conv 'x' is grouped")
    plain = dataclasses.replace(report, options={"restore": "none"})
    assert tables.cut_summary(plain).endswith("restored nothing (--restore none)")


def test_change_is_relative():
    assert [tables.change(200, 50), tables.change(2, 3), tables.change(0, 0)] == ["-75.0 %", "+50.0 %", ""]
