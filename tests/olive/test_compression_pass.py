"""The pass in the real Olive: a recipe that compresses and quantises, and what its parameters are."""

import inspect
import json
import logging
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import ROOT

import lbyl_onnx

pytest.importorskip("olive.passes", reason="needs olive-ai (pip install 'lbyl-onnx[olive]')")

import olive
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.search.search_parameter import Categorical

from lbyl_onnx.olive import compression_pass
from lbyl_onnx.olive.compression_pass import LbylCompression
from lbyl_onnx.olive.packages import package_config

CNN = ROOT / "models" / "digits_cnn_folded.onnx"
CPU = AcceleratorSpec("cpu", "CPUExecutionProvider")
CUDA = AcceleratorSpec("gpu", "CUDAExecutionProvider")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with copies of the models and of Olive's recipe."""
    for name in ("models", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def seen(monkeypatch):
    """What `compress` is called with."""
    found, compress = {}, compression_pass.compress

    def watched(model, **options):
        found.update(options)
        return compress(model, **options)

    monkeypatch.setattr(compression_pass, "compress", watched)
    return found


def accuracy(model) -> float:
    with np.load(ROOT / "models" / "digits_eval.npz") as arrays:
        images, labels = arrays["image"][128:], arrays["labels"][128:]
    (scores,) = ort.InferenceSession(str(model)).run(None, {"image": images})
    return float(np.mean(scores.argmax(1) == labels))


def compressed(place, **config) -> ONNXModelHandler:
    made = create_pass_from_dict(LbylCompression, config, disable_search=True, accelerator_spec=CPU)
    return made.run(ONNXModelHandler(str(CNN)), str(place / "out"))


def test_a_recipe_compresses_and_quantises(place):
    recipe = json.loads((place / "examples/olive/digits.json").read_text())
    output = olive.run(recipe, package_config=package_config())
    model = onnx.load(output.get_output_models()[0].model_path)
    assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    (middle,) = (path for path in place.glob("olive-cache/*/runs/*/models/*.onnx") if path.stat().st_size > 100_000)
    macs = [lbyl_onnx.inspect(path).input.macs for path in (CNN, middle)]
    assert macs[1] <= 0.5 * macs[0]
    assert model.ByteSize() < middle.stat().st_size / 2.5 < CNN.stat().st_size / 5
    assert accuracy(CNN) > 0.99 and accuracy(output.get_output_models()[0].model_path) > 0.97


def test_a_recipe_may_name_the_pass_by_its_full_name(place):
    recipe = json.loads((place / "examples/olive/digits.json").read_text())
    del recipe["passes"]["quantise"]
    recipe["passes"]["compress"] = {"type": "lbyl_onnx.olive.LbylCompression", "ratio": 0.2, "samples": 64}
    output = olive.run(recipe, package_config=package_config())
    assert accuracy(output.get_output_models()[0].model_path) > 0.97


def test_every_argument_of_compress_can_be_given():
    parameters = set(LbylCompression.default_config(CPU))
    elsewhere = {"model", "normalisation", "layer_errors", "progress"}
    assert parameters == (set(inspect.signature(lbyl_onnx.compress).parameters) - elsewhere) | set(compression_pass.OWN)


def test_defaults_are_those_of_compress():
    config = LbylCompression.generate_config(CPU, {}, disable_search=True)
    expected = {name: each.default for name, each in inspect.signature(lbyl_onnx.compress).parameters.items()}
    found = compression_pass.arguments(config, {})
    assert found.pop("provider") == "cpu"
    assert found == {name: expected[name] for name in found}
    assert LbylCompression.generate_config(CUDA, {}, disable_search=True).provider == "cuda"


def test_parameters_reach_compress(place, seen):
    given = {"ratio": 0.3, "criterion": "l1", "restore": "lbyl", "round_to": 4, "seed": 3, "threads": 1, "include": "a"}
    compressed(place, **given, mean=[0.5], std=[0.25], shapes={"image": [1, 1, 8, 8]}, validation=False)
    assert {name: seen[name] for name in given} == given and seen["validation"] is False
    assert seen["normalisation"] == lbyl_onnx.Normalisation((0.5,), (0.25,))


def test_shares_and_sizes_stay_what_they_are(place, seen):
    compressed(place, target={"macs": 0.8, "bytes": "400kB"}, samples=64)
    assert seen["target"] == {"macs": 0.8, "bytes": "400kB"}


def test_a_list_is_searched_over_and_nothing_else():
    _, fixed, searched = LbylCompression.get_config_params(CPU, {"ratio": [0.1, 0.3], "scope": ["chains", "all"]})
    assert {name: parameter.get_support() for name, parameter in searched.items()} == {
        "ratio": [0.1, 0.3],
        "scope": ["chains", "all"],
    }
    assert all(isinstance(parameter, Categorical) for parameter in searched.values())
    assert (fixed["criterion"], fixed["samples"]) == ("obs", None)


def test_olive_searches_over_ratios(place):
    recipe = json.loads((place / "examples/olive/digits.json").read_text())
    recipe["passes"] = {"compress": {"type": "LbylCompression", "ratio": [0.2, 0.6], "samples": 64}}
    recipe["data_configs"][0]["post_process_data_config"] = {"type": "text_classification_post_process"}
    task = {"task": "multiclass", "num_classes": 10}
    score = {"name": "accuracy_score", "priority": 1, "metric_config": task}
    metric = {"name": "accuracy", "type": "accuracy", "data_config": "digits", "sub_types": [score]}
    recipe |= {"evaluators": {"digits": {"type": "OnnxEvaluator", "metrics": [metric]}}, "evaluator": "digits"}
    recipe["search_strategy"] = {"execution_order": "joint", "sampler": "sequential"}
    olive.run(recipe, package_config=package_config())
    runs = json.loads((place / "olive-output" / "footprint.json").read_text()).values()
    found = {run["pass_run_config"]["ratio"]: run["metrics"]["value"] for run in runs if run["from_pass"]}
    assert set(found) == {0.2, 0.6}
    assert found[0.2]["accuracy-accuracy_score"]["value"] > 0.97


def test_what_was_found_is_logged(place, caplog):
    with caplog.at_level(logging.INFO, logger="olive"):
        logging.getLogger("olive").addHandler(caplog.handler)
        compressed(place, ratio=0.3)
    assert "parameters became" in caplog.text and "verdict: INTACT" in caplog.text


def test_a_limit_that_is_missed_fails_the_pass(place):
    with pytest.raises(lbyl_onnx.ValidationFailed, match="min-sqnr is 90"):
        compressed(place, ratio=0.3, min_sqnr=90, samples=64)
    assert not (place / "out").exists() or not list((place / "out").iterdir())


def test_calibration_is_not_given_twice(place):
    data = {"name": "digits", "user_script": str(place / "examples/olive/digits_data.py")}
    with pytest.raises(lbyl_onnx.UsageError, match="calibration is given beside data_config"):
        compressed(place, ratio=0.3, calibration="noise", data_config=data)


def test_external_weights_come_with_their_model(place):
    model = onnx.load(CNN)
    onnx.save(model, place / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    made = create_pass_from_dict(LbylCompression, {"ratio": 0.3, "samples": 64}, True, CPU)
    output = made.run(ONNXModelHandler(str(place), onnx_file_name="m.onnx"), str(place / "out"))
    assert output.to_json()["config"]["model_path"] == str(place / "out") and accuracy(output.model_path) > 0.97
