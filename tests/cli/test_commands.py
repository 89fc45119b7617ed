import json
import re
from pathlib import Path

import command_line
import numpy as np
import onnx
import pytest
from command_line import CNN, DIGITS, assert_refused, chain, files, said
from graphs import Builder
from onnx import numpy_helper
from PIL import Image
from uniform import UNIFORM

import lbyl_onnx
from lbyl_onnx import compression
from lbyl_onnx.calibration import staged_run
from lbyl_onnx.errors import ModelError, ValidationFailed

lbyl = command_line.lbyl


# ---- compress


def test_compress_writes_model_and_report(lbyl, tmp_path):
    out, record = tmp_path / "out.onnx", tmp_path / "report.json"
    code, printed, err = lbyl("compress", CNN, out, *UNIFORM, "--ratio", "0.25", "--round-to", "8", "--report", record)
    assert code == 0 and files(tmp_path) == ["out.onnx", "report.json"]
    assert all(line.startswith("warning: ") for line in said(err).splitlines())

    report = json.loads(record.read_text())
    assert report["input"]["path"] == str(CNN) and report["input"]["bytes"] == CNN.stat().st_size
    assert report["output"]["path"] == str(out) and report["output"]["bytes"] == out.stat().st_size
    assert [group["units_after"] for group in report["groups"]] == [24, 48, 48, 48, 10]
    assert report["groups"][-1]["frozen_reason"] and report["validation"]["samples"] == 128
    assert {"parameters", "macs"} < set(report["output"]) and report["seconds"] > 0
    assert report["groups"][0]["errors"]["residual_error"] > 0 and report["groups"][0]["errors"]["ware"] > 0
    assert report["options"]["prune"]["ratio"] == 0.25 and report["options"]["prune"]["round_to"] == 8

    assert f"{report['output']['parameters']:,}" in printed and f"{report['output']['bytes']:,}" in printed
    assert "removed 56 of 234 units in 4 of 5 groups" in printed and "SQNR" in printed
    assert printed.splitlines()[-1] == f"wrote {out}"
    assert lbyl_onnx.inspect(out).input.parameters == report["output"]["parameters"]


def test_compress_passes_every_option_on(lbyl, tmp_path, monkeypatch):
    seen, compress = {}, compression.compress

    def watched(model, ratio, **options):
        seen.update(options, model=model, ratio=ratio)
        return compress(model, ratio, **options)

    monkeypatch.setattr(compression, "compress", watched)
    options = {
        **{"ratio": 0.5, "restore": "neuron-merging", "criterion": "l1", "lambda1": 0.25, "lambda2": 0.75},
        **{"scope": "all", "round_to": 2, "include": "layer[23]", "exclude": "layer3", "seed": 3},
        **{"provider": "cpu", "allocation": "uniform", "threads": 1},
    }
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    targets = "--target", "macs=0.9", "--target", "bytes=400kB"
    code, printed, _ = lbyl("compress", CNN, tmp_path / "out.onnx", *arguments, *targets, "--no-validate")
    assert code == 0
    assert {name: seen[name] for name in options} == options and seen["validation"] is False
    assert seen["target"] == {"macs": "0.9", "bytes": "400kB"}
    assert "removed 32 of 234 units in 1 of 5 groups" in printed
    assert "not compared" in printed and "latency" not in printed


def test_sizes_and_scales_reach_every_command(lbyl, tmp_path):
    """The model declares any size of images, but takes one only."""
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, "H", "W")), 3, 8))
    onnx.save(graph.model(graph.gemm(graph.node("Flatten", hidden), 8 * 18 * 17, 4)), tmp_path / "m.onnx")
    files = tmp_path / "m.onnx", tmp_path / "out.onnx"
    looks = "--shape", "x:1x3x18x17"
    assert_refused(lbyl("compress", *files, *UNIFORM), 4, "--shape")
    code, printed, _ = lbyl("compress", *files, *UNIFORM, *looks, "--input-range", "0,255")
    measured = r"measured on 512 crops of \d+ photographs, seed 0, x 3x18x17, normalised by mean 0, std 0.00392 "
    assert code == 0 and re.search(measured, printed) and "128x4" in printed
    assert lbyl("validate", *files, *looks, "--mean", "0.5", "--std", "0.5")[0] == 0
    assert lbyl("inspect", files[0], *looks)[0] == 0


def test_given_samples_are_compared_on_those_held_out(lbyl, tmp_path):
    code, printed, _ = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--calibration", DIGITS)
    assert code == 0 and f"measured on 540 samples of {DIGITS}" in printed
    assert f"compared on 59 samples (held out of {DIGITS})" in printed


def test_the_name_of_the_samples_decides_nothing(lbyl, tmp_path):
    given = tmp_path / "photos.npz"
    given.write_bytes(DIGITS.read_bytes())
    _, printed, _ = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--calibration", given, "--samples", "64")
    assert f"measured on 64 samples of {given}" in printed and f"(held out of {given})" in printed


def test_quiet_prints_warnings_only(lbyl, tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "speed_warnings", lambda *_: ("slower than before",))
    code, out, err = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--quiet")
    assert (code, out, err) == (0, "", "warning: slower than before\n")


def test_what_was_done_instead_is_printed(lbyl, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ModelError("no such kernel")

    monkeypatch.setattr(staged_run, "open_session", refuse)
    out = tmp_path / "out.onnx"
    code, printed, err = lbyl("compress", CNN, out, *UNIFORM, "--no-validate")
    assert code == 0 and "restored 4 of 4 groups with lbyl" in printed and "measured on" not in printed
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [
        f"warning: activations cannot be measured (no such kernel); {stand_in} was used instead"
        for stand_in in ("l2", "lbyl")
    ]


# ---- samples that look wrong


def test_doubtful_samples_are_told_of(lbyl, tmp_path):
    with np.load(DIGITS) as data:
        image = data["image"][:60].copy()
    image[:3] = 0.5
    np.savez(tmp_path / "blank.npz", image=image)
    np.savez(tmp_path / "pixels.npz", image=127.5 * (image[3:] + 1))
    for name, told in (("blank", "3 of 60 samples of 'image' hold one value"), ("pixels", "--input-range 0,255")):
        arguments = "--calibration", tmp_path / f"{name}.npz", "--no-validate"
        code, _, err = lbyl("compress", CNN, tmp_path / f"{name}.onnx", *UNIFORM, *arguments)
        assert code == 0 and [line for line in err.splitlines() if line.startswith("warning: ") and told in line]


def test_unequal_numbers_of_samples_are_refused(lbyl, tmp_path):
    graph = Builder()
    both = graph.node("Add", graph.input(("N", 6), "a"), graph.input(("N", 6), "b"))
    hidden = graph.node("Relu", graph.gemm(both, 6, 8))
    model, given = tmp_path / "m.onnx", tmp_path / "given.npz"
    onnx.save(graph.model(graph.gemm(hidden, 8, 3)), model)
    np.savez(given, a=np.ones((4, 6), np.float32), b=np.ones((5, 6), np.float32))
    told = str(given), "differ in their number of samples: a has 4, b has 5"
    assert_refused(lbyl("compress", model, tmp_path / "out.onnx", *UNIFORM, "--calibration", given), 2, *told)
    assert_refused(lbyl("validate", model, model, "--data", given), 2, *told)
    assert files(tmp_path) == ["given.npz", "m.onnx"]


# ---- exit codes


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
        result = lbyl("compress", CNN, tmp_path / "out.onnx", "--report", tmp_path / "r.json", *UNIFORM, *options)
        assert_refused(result, 4, "nothing to remove")
    assert files(tmp_path) == []


def test_failed_validation_writes_nothing(lbyl, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValidationFailed("output 'logits' is not finite")

    monkeypatch.setattr(compression, "compare", fail)
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--report", tmp_path / "r.json"), 5, "logits")
    assert files(tmp_path) == []
    assert lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, "--no-validate")[0] == 0


# ---- inspect


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


def test_inspect_counts_external_data(lbyl, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(CNN), path, save_as_external_data=True, location="m.bin")
    stored = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert stored > 2 * path.stat().st_size
    _, out, _ = lbyl("inspect", path, "--json")
    assert json.loads(out)["input"]["bytes"] == lbyl_onnx.inspect(path).input.bytes == stored


# ---- validate


def test_validate_prints_agreement_latency_and_accuracy(lbyl):
    code, out, err = lbyl("validate", CNN, CNN, "--data", DIGITS, "--provider", "cpu")
    assert (code, err) == (0, "")
    latency, accuracy = out.splitlines()[1:3]
    assert latency.split()[0] == "latency" and latency.split()[2] == "ms"
    assert accuracy.split() == ["accuracy", "99.50", "%", "99.50", "%", "+0.00", "points"]
    assert "compared on 599 samples" in out and "599x10" in out
    (row,) = (line for line in out.splitlines() if "599x10" in line)
    assert row.split()[2:] == ["0", "0", "inf", "1.0000", "100.0%"]
    assert out.rstrip().splitlines()[-1].startswith("verdict: INTACT")


def test_validate_json(lbyl, tmp_path):
    onnx.save(chain(), tmp_path / "a.onnx")
    onnx.save(chain(weight=np.ones((2, 8))), tmp_path / "b.onnx")
    code, out, err = lbyl(
        "validate", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json", "--samples", "5", "--seed", "7"
    )
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["samples"], record["data"]) == (5, "synthetic samples, seed 7")
    assert record["outputs"][0]["shape"] == [5, 3] and record["outputs"][0]["max_error"] > 0
    assert record["accuracy_before"] is None and record["latency_before_ms"] > 0


def test_validate_takes_as_many_samples_as_asked_for(lbyl):
    code, out, err = lbyl("validate", CNN, CNN, "--data", DIGITS, "--samples", "20")
    assert (code, err) == (0, "")
    assert "compared on 20 samples" in out and "20x10" in out and "accuracy" in out


def test_validate_takes_a_folder_of_images(lbyl, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (12, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    code, out, err = lbyl("validate", CNN, CNN, "--data", tmp_path, "--mean", "0.5", "--std", "0.5")
    assert (code, err) == (0, "") and f"compared on 5 samples ({tmp_path}, normalised by mean 0.5" in out
    assert "compared on 2 samples" in lbyl("validate", CNN, CNN, "--data", tmp_path, "--samples", "2")[1]
    (tmp_path / "empty").mkdir()
    assert_refused(lbyl("validate", CNN, CNN, "--data", tmp_path / "empty"), 2, "holds no images")


def test_validate_tells_which_model_fails(lbyl, tmp_path):
    onnx.save(chain(), tmp_path / "other.onnx")
    assert_refused(lbyl("validate", CNN, tmp_path / "other.onnx"), 5, "inputs differ")
    assert_refused(lbyl("validate", CNN, tmp_path / "missing.onnx"), 5, "missing.onnx")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """The network with noise on its last weights, which costs it most of its accuracy."""
    model, path = onnx.load(CNN), tmp_path_factory.mktemp("damaged") / "damaged.onnx"
    (last,) = (tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[1])
    weights = numpy_helper.to_array(last)
    noise = 5 * weights.std() * np.random.default_rng(0).standard_normal(weights.shape)
    last.CopyFrom(numpy_helper.from_array((weights + noise).astype(np.float32), last.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("limit", [("--max-drop", "1"), ("--min-agreement", "95"), ("--min-sqnr", "10")])
def test_validate_fails_where_a_limit_is_broken(lbyl, damaged, limit):
    """What was found is shown all the same."""
    assert lbyl("validate", CNN, CNN, "--data", DIGITS, *limit)[::2] == (0, "")
    code, out, err = lbyl("validate", CNN, damaged, "--data", DIGITS, *limit)
    assert code == 5 and "accuracy" in out and "verdict: " in out
    assert err.startswith("error: ") and f"{limit[0]} is {limit[1]}\n" in err and err.count("\n") == 1
    assert json.loads(lbyl("validate", CNN, damaged, "--data", DIGITS, "--json", *limit)[1])["samples"] == 599


def test_a_drop_needs_labels(lbyl, tmp_path):
    with np.load(DIGITS) as data:
        np.savez(tmp_path / "unlabelled.npz", image=data["image"][:8])
    assert_refused(lbyl("validate", CNN, CNN, "--max-drop", "1"), 2, "--max-drop needs labelled samples", "--data")
    code, _, err = lbyl("validate", CNN, CNN, "--max-drop", "1", "--data", tmp_path / "unlabelled.npz")
    assert code == 2 and "has no labels" in err and "unlabelled.npz" in err
