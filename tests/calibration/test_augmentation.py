"""Samples for models that see one row a sample: spread over the classes, of many contrasts, topped up when few."""

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given
from hypothesis import strategies as st

from lbyl_onnx.calibration import augmentation, samples
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import RunOptions, SampleOptions


def perceptron(classes=4, side=6, batch="N"):
    graph = Builder(seed=2)
    flat = graph.node("Flatten", graph.input((batch, 1, side, side), "image"))
    hidden = graph.node("Relu", graph.gemm(flat, side * side, 16))
    return load(graph.model(graph.gemm(hidden, 16, classes)))


def calibrate(model, source="auto", runtime=None, **options):
    """Samples with these `SampleOptions`."""
    return samples.calibrate(model, source, SampleOptions(**options), runtime=runtime or RunOptions())


def images_of(calibration, fold=None):
    """All images, or those of one fold."""
    pairs = zip(calibration.batches, calibration.folds, strict=True)
    return np.concatenate([batch["image"] for batch, each in pairs if fold in (None, each)])


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 60))
def test_evenly_classed(seed, classes, count):
    """No class that has samples left is behind another one by more than one; each gives those that lead by most."""
    scores = np.random.default_rng(seed).standard_normal((count, classes)) + np.arange(classes)
    half = (count + 1) // 2
    chosen = augmentation.evenly_classed(scores, half)
    top = scores.argmax(axis=1)
    taken = np.bincount(top[chosen], minlength=classes)
    there = np.bincount(top, minlength=classes)
    assert len(np.unique(chosen)) == half and (np.diff(chosen) > 0).all()
    assert all(taken[each] >= taken.max() - 1 for each in range(classes) if taken[each] < there[each])
    ordered = np.sort(scores, axis=1)
    lead = (ordered[:, -1] - ordered[:, -2]) / scores.std(axis=1)
    for each in range(classes):
        left = np.setdiff1d(np.flatnonzero(top == each), chosen)
        if len(left) and taken[each]:
            assert lead[left].max() <= lead[chosen[top[chosen] == each]].min() + 1e-9


def test_synthetic_images_are_spread_over_the_classes():
    """More evenly than as they come, of the wanted number and type, and the same for the same seed."""
    model = perceptron()
    images = images_of(calibrate(model, samples=64, seed=5))
    assert images.shape == (64, 1, 6, 6) and images.dtype == np.float32
    np.testing.assert_array_equal(images, images_of(calibrate(model, samples=64, seed=5)))
    candidates = synthetic_inputs(model, 64 * augmentation.CANDIDATES, SampleOptions(seed=5))["image"]
    scores = run_batches(open_session(model), {"image": candidates})[0]
    chosen = candidates[augmentation.evenly_classed(scores, 64)]
    chosen = np.concatenate([chosen[0::2], chosen[1::2]])  # a batch for each fold
    contrast = images.reshape(64, -1)[:, 0] / chosen.reshape(64, -1)[:, 0]
    np.testing.assert_allclose(images, chosen * contrast.reshape(-1, 1, 1, 1), rtol=1e-4, atol=1e-6)
    assert augmentation.LEAST_CONTRAST * 0.99 < contrast.min() < 0.2 < 0.6 < contrast.max() < 1.01
    count = np.bincount(scores.argmax(1)[augmentation.evenly_classed(scores, 64)], minlength=4)
    plain = np.bincount(scores[:64].argmax(1), minlength=4)
    assert count.std() < plain.std()


def test_a_model_with_operators_of_a_library_chooses_too():
    """As the same model without them does: the second output of NegPos is that of Relu."""
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    proto = perceptron().to_proto()
    (relu,) = (node for node in proto.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain, relu.output[:] = "NegPos", "ai.onnx.contrib", ["negative", *relu.output]
    proto.opset_import.add(domain="ai.onnx.contrib", version=1)
    found, blind = (
        images_of(calibrate(load(proto), runtime=RunOptions(custom_ops_library=each), samples=16))
        for each in (library, None)
    )
    np.testing.assert_array_equal(found, images_of(calibrate(perceptron(), samples=16)))
    assert not np.array_equal(found, blind)


def test_outputs_that_are_no_classes_do_not_choose():
    graph = Builder(seed=2)
    model = load(graph.model(graph.matmul(graph.input(("N", 1, 6, 6), "image"), 6, 3)))
    assert images_of(calibrate(model, samples=8)).shape == (8, 1, 6, 6)


@pytest.mark.parametrize("batch", ["N", 1])
def test_few_given_samples_are_topped_up(batch):
    """Each fold has half of the given ones, unchanged and first, and then nothing but values of its own half, so that
    none shows what the other holds; the source says how many were given."""
    given_images = np.random.default_rng(0).standard_normal((16, 1, 6, 6)).astype(np.float32)
    calibrated = calibrate(perceptron(batch=batch), {"image": given_images})
    assert calibrated.source.startswith("16 samples")
    for fold in range(2):
        half, images = given_images[fold::2], images_of(calibrated, fold)
        assert len(images) == augmentation.ENOUGH_ROWS and np.isin(images, half).all()
        whole = (images[:, None] == half[None]).all(axis=(2, 3, 4))
        assert whole.any(axis=0).all()
        changed = 1 - (images[:, None] == half[None]).mean(axis=(2, 3, 4)).max(axis=1)
        assert changed.min() == 0 and changed.max() > 0.75


def test_samples_limit_what_is_topped_up():
    given_images = np.random.default_rng(0).standard_normal((16, 1, 6, 6)).astype(np.float32)
    calibrated = calibrate(perceptron(), {"image": given_images}, samples=4)
    for fold, used in enumerate((given_images[[0, 8]], given_images[[4, 12]])):
        images = images_of(calibrated, fold)
        assert len(images) == augmentation.ENOUGH_ROWS and np.isin(images, used).all()


def test_many_given_samples_and_convolutions_are_left_alone():
    """Apart from those that are held out."""
    many = np.zeros((3 * augmentation.ENOUGH_ROWS, 1, 6, 6), np.float32)
    assert images_of(calibrate(perceptron(), {"image": many})).shape == (len(many) - 64, 1, 6, 6)
    graph = Builder()
    convolving = load(graph.model(graph.conv(graph.input(("N", 1, 6, 6), "image"), 1, 2)))
    assert len(images_of(calibrate(convolving, {"image": many[:5]}))) == 5
