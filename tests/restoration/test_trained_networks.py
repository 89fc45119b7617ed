"""Trained networks keep their accuracy when they are restored from activations."""

from functools import cache

import numpy as np
import onnx
import pytest
from conftest import ROOT, shared, shared_files
from restoring import assert_finite, compressed, made_up, outputs, sqnr

from lbyl_onnx.calibration.inputs import input_specs
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run_batches

ACCURACY = {"digits_cnn": 97, "digits_cnn_folded": 97, "digits_resnet": 96}


@cache
def digits(name, data, **options):
    """An example model at ratio 0.4."""
    model = load(ROOT / "models" / f"{name}.onnx")
    calibration = {"image": evaluation()[0][::9][:64]} if data == "given" else "auto"
    return model, compressed(model, calibration=calibration, **options)[0]


@cache
def evaluation():
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return data["image"], data["labels"]


def accuracy(model, images, labels):
    (logits,) = run_batches(open_session(model), {model.proto.graph.input[0].name: images}, limit=128)
    return 100 * float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("name", ACCURACY)
def test_examples_without_data(name):
    model, ours = digits(name, "auto")
    assert sum(v.size for v in ours.weights.values()) < 0.85 * sum(v.size for v in model.weights.values())
    assert accuracy(ours, *evaluation()) >= ACCURACY[name]


@pytest.mark.parametrize("name", ACCURACY)
def test_examples_with_some_images(name):
    _, ours = digits(name, "given")
    assert accuracy(ours, *evaluation()) >= 98
    assert_finite(ours)


@pytest.mark.parametrize("name", ACCURACY)
def test_sixteen_images_already_help(name):
    images, labels = evaluation()
    model = load(ROOT / "models" / f"{name}.onnx")
    ours, _ = compressed(model, calibration={"image": images[:16]})
    assert accuracy(ours, images, labels) >= 90


def test_the_same_seed_gives_the_same_bytes():
    model = load(ROOT / "models" / "digits_cnn_folded.onnx")
    first, second, third = (
        compressed(model, samples=64, seed=seed)[0].to_proto().SerializeToString(deterministic=True)
        for seed in (0, 0, 1)
    )
    assert first == second != third


def test_all_groups_of_a_residual_network():
    model, ours = digits("digits_resnet", "auto", scope="all")
    assert_finite(ours)
    images, labels = evaluation()
    assert outputs(ours, {"image": images[:3]})[0].shape == (3, 10)
    plain, _ = compressed(model, restore="none", scope="all", samples=64)
    assert accuracy(ours, images, labels) > accuracy(plain, images, labels) + 20
    onnx.checker.check_model(ours.to_proto(), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["chains", "all"])
@pytest.mark.parametrize("path", shared_files("models"), ids=lambda path: path.stem)
def test_never_worse_than_leaving_the_weights_alone(path, scope):
    """Every output, on synthetic inputs of another seed, with few samples where these are large."""
    model = load(path)
    samples = 64 if max(size or 0 for spec in input_specs(model) for size in spec.shape) > 64 else None
    ours, _ = compressed(model, 0.3, scope=scope, samples=samples)
    inputs = made_up(model, 32, seed=1000)
    restored = sqnr(model, ours, inputs)
    for criterion in ("obs", "l2"):
        plain, _ = compressed(model, 0.3, scope=scope, restore="none", criterion=criterion, samples=samples)
        lost = sqnr(model, plain, inputs)
        assert all(after >= before for before, after in zip(lost, restored, strict=True)), (lost, restored)


@cache
def pictures(name):
    """Images of a data file as its models take them, and their labels (None: there are none)."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if "cifar" in name else (0.5, 0.5)
    with np.load(shared("data", f"{name}.npz")) as data:
        images, labels = data["images"].astype(np.float32) / 255, data.get("labels")
    images = images.reshape(*images.shape[:3], -1)
    scaled = (images - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ratio", "no_data", "with_data"),
    [
        ("resnet20_cifar10", 0.3, 70, 71),
        ("resnet20_cifar10", 0.5, 59, 60),
        ("resnet20_cifar10_folded", 0.3, 64, 71),
        ("resnet20_cifar10_folded", 0.5, 46, 60),
        ("lenet_300_100_fashion", 0.5, 88.7, 89),
        ("lenet_300_100_fashion", 0.7, 86, 87),
        ("lenet_300_100_fashion", 0.8, 78, 85),
    ],
)
def test_accuracy_of_real_networks(name, ratio, no_data, with_data):
    """Without data and with 256 unlabelled images."""
    model = load(shared("models", f"{name}.onnx"))
    kind = "cifar10" if "cifar10" in name else "fashion_mnist"
    evaluated = pictures(f"{kind}_{'eval' if kind == 'cifar10' else 'test'}")
    given = {model.proto.graph.input[0].name: pictures(f"{kind}_calibration")[0]}
    found = [accuracy(compressed(model, ratio, calibration=c)[0], *evaluated) for c in ("auto", given)]
    assert found[0] >= no_data and found[1] >= with_data, found


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["chains", "all"])
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet20_cifar10_folded", "lenet_300_100_fashion"])
def test_not_worse_than_none_on_real_images(name, scope):
    """Without data, on images that nothing was fitted to."""
    model = load(shared("models", f"{name}.onnx"))
    images, _ = pictures("cifar10_eval" if "cifar10" in name else "fashion_mnist_test")
    inputs = {model.proto.graph.input[0].name: images[:500]}
    ours, plain = (compressed(model, 0.3, scope=scope, restore=method)[0] for method in ("moments", "none"))
    assert min(sqnr(model, ours, inputs)) > min(sqnr(model, plain, inputs))
