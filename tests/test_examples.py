"""Every recipe in `examples/` is run, in the version that is small."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import yaml
from conftest import ROOT, shared
from packaging.version import Version

import lbyl_onnx

EXAMPLES = ROOT / "examples"
CNN, DIGITS = ROOT / "models" / "digits_cnn_folded.onnx", ROOT / "models" / "digits_eval.npz"


@pytest.fixture
def printed(capsys, monkeypatch):
    """Runs an example with arguments and gives what it prints; it must end without an exit code."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code
        return capsys.readouterr().out

    return run


def numbers(text: str, pattern: str) -> list[float]:
    found = re.search(pattern, text)
    assert found is not None, text
    return [float(number.replace(",", "")) for number in found.groups()]


MACS = r"([\d,]+) multiply-accumulates became ([\d,]+)"


# ---- scripts


def test_classifier_from_folder(printed, tmp_path):
    out = tmp_path / "small.onnx"
    text = printed("classifier_from_folder.py", "--out", out)
    before, after = numbers(text, MACS)
    assert after <= 0.7 * before and lbyl_onnx.inspect(out).input.macs == after
    same, of = numbers(text, r"the same answer to (\d+) of (\d+) photographs")
    assert of == 128 and same >= 120 and text.count("before") == 5


@pytest.mark.slow
def test_classifier_from_photographs(printed, tmp_path):
    """A real MobileNet, on photographs of classes that it knows: named 0001.jpg by the class."""
    photographs = sorted(shared("data", "imagenet").glob("*.jpg"))[:64]
    for path in photographs:
        shutil.copy(path, tmp_path)
    model = shared("realworld", "mobilenet_v1_025_imagenet_224.onnx")
    arguments = "--model", model, "--photographs", tmp_path, "--mean", "0.5", "--std", "0.5", "--macs", "0.95"
    text = printed("classifier_from_folder.py", *arguments)
    before, after = numbers(text, MACS)
    assert after <= 0.95 * before
    same, of = numbers(text, r"the same answer to (\d+) of (\d+) photographs")
    assert of == len(photographs) and same > 0.5 * of
    named = re.findall(r"^(\d+)\.jpg +before +(\d+)", text, re.MULTILINE)
    assert sum(int(name) == int(answer) for name, answer in named) >= 3, "the images reach the network as it wants them"


def test_quantise_after(printed, tmp_path):
    text = printed("quantise_after.py", "--out", tmp_path)
    rows = re.findall(r"^(\w+) +([\d,]+) +[\d.]+ ms +([\d.]+)%$", text, re.MULTILINE)
    sizes = {name: int(size.replace(",", "")) for name, size, _ in rows}
    assert list(sizes) == ["plain", "compressed", "quantised", "both"]
    assert sizes["both"] < min(sizes["compressed"], sizes["quantised"]) and sizes["plain"] == CNN.stat().st_size
    assert all(float(accuracy) > 97 for *_, accuracy in rows)
    assert "471 samples" in text
    for name in ("quantised", "both"):
        assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)


def test_openvino_run(printed):
    pytest.importorskip("openvino", reason="needs openvino (pip install 'lbyl-onnx[examples]')")
    (worst,) = numbers(printed("openvino_run.py"), r"differ by ([\d.e+-]+) of the largest output on 599 samples")
    assert worst < 1e-3


def test_optimum_export(printed, tmp_path):
    pytest.importorskip("optimum.exporters.onnx", reason="needs optimum-onnx (pip install 'lbyl-onnx[examples]')")
    text = printed("optimum_export.py", "--out", tmp_path / "small.onnx")
    before, after = numbers(text, MACS)
    assert after <= 0.7 * before and "logits had the shape (4, 10) and have (4, 10)" in text
    onnx.checker.check_model(str(tmp_path / "small.onnx"))


# ---- the workflow


WORKFLOW = yaml.safe_load((EXAMPLES / "github-action" / "model-check.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pull_request(tmp_path_factory) -> Path:
    """What the workflow checks out: the base, and a proposed model."""
    folder = tmp_path_factory.mktemp("pull_request")
    for part, name in (("base", "MODEL"), ("base", "SAMPLES"), ("proposed", "MODEL")):
        target = folder / part / WORKFLOW["env"][name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CNN if name == "MODEL" else DIGITS, target)
    return folder


def steps(folder: Path) -> list[int]:
    """Exit codes of the steps that are commands, in the order of the workflow, up to the first that fails."""
    codes = []
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, **WORKFLOW["env"], "PIP_NO_INDEX": "1"}
    for step in WORKFLOW["jobs"]["model-check"]["steps"]:
        if "run" in step and not any(codes):
            command = ["bash", "-eo", "pipefail", "-c", step["run"]]
            codes.append(subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode)
    return codes


def test_a_pull_request_with_a_good_model_passes(pull_request):
    small = lbyl_onnx.compress(CNN, target={"macs": 0.8}, samples=64)
    lbyl_onnx.save(small, pull_request / "proposed" / WORKFLOW["env"]["MODEL"], force=True)
    assert steps(pull_request) == [0, 0]


def test_a_pull_request_with_a_bad_model_is_refused(pull_request):
    small = lbyl_onnx.compress(CNN, 0.8, criterion="random", restore="none", validation=False)
    lbyl_onnx.save(small, pull_request / "proposed" / WORKFLOW["env"]["MODEL"], force=True)
    assert steps(pull_request) == [0, 5]


def test_the_workflow_is_one_for_pull_requests():
    assert "pull_request" in WORKFLOW[True], "YAML 1.1 reads the key `on` as true"
    checkouts = [
        step["with"] for step in WORKFLOW["jobs"]["model-check"]["steps"] if "checkout" in step.get("uses", "")
    ]
    assert [each["path"] for each in checkouts] == ["base", "proposed"] and "base.sha" in checkouts[0]["ref"]
    assert float(WORKFLOW["env"]["POINTS"]) == 1


# ---- the image


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (EXAMPLES / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines()]


def test_the_dockerfile_says_what_an_image_needs():
    found = dict(instructions())
    assert instructions()[0][0] == "FROM" and set(found) <= {*"FROM COPY RUN WORKDIR USER ENTRYPOINT CMD".split()}
    python = Version(found["FROM"].removeprefix("python:").removesuffix("-slim"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert python >= Version(re.search(r'requires-python = ">=(.*)"', pyproject)[1])
    assert f"Programming Language :: Python :: {python}" in pyproject
    (command,) = re.findall(r'^(\S+) = "lbyl_onnx\.__main__:main"$', pyproject, re.MULTILINE)
    assert yaml.safe_load(found["ENTRYPOINT"]) == [command]


def test_what_the_dockerfile_copies_can_be_installed(tmp_path):
    """Its COPY instructions are carried out, then a wheel is built of what is there."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools 77 or newer")
    for name, words in instructions():
        if name == "COPY":
            *sources, target = words.split()
            place = tmp_path / target.strip("/")
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir(exist_ok=True)
                    shutil.copy(ROOT / source, place)
    (installed,) = re.findall(r"pip install --no-cache-dir (\S+)", dict(instructions())["RUN"])
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*map(str, build), str(tmp_path / installed.strip("/"))], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "lbyl_onnx").rglob("*.py*") if path.suffix != ".pyc"
    }
    assert package <= names and "lbyl_onnx/py.typed" in names


# ---- the list of them


def test_every_example_is_listed():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([^)]+)\)", text))
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path} - {"README.md"} == {
        name for name in named if not name.startswith(("http", ".."))
    }


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.stem)
def test_commands_in_docstrings_are_understood(script, monkeypatch):
    """Every line that begins with `python examples/` names this script and arguments that it has."""
    text = script.read_text(encoding="utf-8")
    lines = re.findall(r"^    python (examples/\S+)(.*)$", text, re.MULTILINE)
    assert len(lines) == 2 and {name for name, _ in lines} == {f"examples/{script.name}"}
    given = {word for _, line in lines for word in shlex.split(line) if word.startswith("--")}
    assert given and given <= set(re.findall(r'add_argument\("(--[a-z-]+)"', text))
