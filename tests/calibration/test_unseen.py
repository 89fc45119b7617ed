"""Samples that results are judged on, and folds of those that are measured: none of them is used twice."""

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lbyl_onnx.calibration import augmentation, samples
from lbyl_onnx.calibration.inputs import InputSpec
from lbyl_onnx.calibration.samples import calibrate, default_samples, input_specs, unseen
from lbyl_onnx.calibration.synthetic import (
    AUTO,
    DRAWS,
    KINDS,
    LEAVES,
    SMALLEST_NORMALISED,
    SMALLEST_PHOTOGRAPH,
    synthetic_inputs,
)
from lbyl_onnx.calibration.user_samples import HELD_OUT, HELD_OUT_FROM, GivenSamples, evenly
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import Normalisation, SampleOptions

PIXELS = Normalisation((0.0,), (1 / 255,))
"""Leaves images in 0 to 255."""


SIZE = (SMALLEST_PHOTOGRAPH + 2, SMALLEST_PHOTOGRAPH)
"""Height and width of images that photographs stand in for."""


def conv_model(**shapes):
    """A convolution behind each image input."""
    graph = Builder()
    shapes = shapes or {"image": ("N", 3, *SIZE)}
    return load(graph.model(*(graph.conv(graph.input(shape, name), shape[1], 2) for name, shape in shapes.items())))


def dense_model(features=6):
    graph = Builder()
    hidden = graph.node("Relu", graph.gemm(graph.input(("N", features)), features, 8))
    return load(graph.model(graph.gemm(hidden, 8, 3)))


def numbered(count, *shape):
    """Samples that hold nothing but their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


def numbers(images):
    """Of the samples of `numbered`, or of the images of `painted`."""
    return np.round(images.reshape(len(images), -1)[:, 0]).astype(int).tolist()


def painted(folder, count):
    for number in range(count):
        Image.new("RGB", SIZE[::-1], (number, 0, 0)).save(folder / f"{number:03d}.png")
    return folder


def source_of(form, count, tmp_path):
    """`count` numbered samples as arrays or as a folder, and options that leave the numbers alone."""
    if form == "arrays":
        return {"image": numbered(count, 3, *SIZE)}, SampleOptions("arrays")
    return painted(tmp_path, count), SampleOptions(str(tmp_path), normalisation=PIXELS)


def measured(model, source, options):
    return [number for batch in calibrate(model, source, options).batches for number in numbers(batch["image"])]


# ---- samples that users give


@pytest.mark.parametrize("form", ["arrays", "folder"])
@pytest.mark.parametrize("count", [HELD_OUT_FROM, 200])
def test_what_is_held_out_is_not_measured_on(form, count, tmp_path):
    source, options = source_of(form, count, tmp_path)
    judged = unseen(conv_model(), source, options)
    held, fitted = numbers(judged.inputs["image"]), measured(conv_model(), source, options)
    assert sorted(held + fitted) == list(range(count))
    assert HELD_OUT[0] <= len(held) <= HELD_OUT[1] and judged.source.startswith("held out of ")
    assert np.ptp(np.diff(held)) <= 1 and held[0] < 10 and held[-1] >= count - 20


@pytest.mark.parametrize("form", ["arrays", "folder"])
def test_of_few_samples_none_is_held_out(form, tmp_path):
    source, options = source_of(form, HELD_OUT_FROM - 1, tmp_path)
    assert sorted(measured(conv_model(), source, options)) == list(range(HELD_OUT_FROM - 1))
    judged = unseen(conv_model(), source, options)
    assert judged.source == "crops of 2 other photographs, seed 0" and judged.labels is None


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 2000),
    batch=st.sampled_from([None, 1, 3, 16, 50]),
    limit=st.none() | st.integers(1, 3000),
)
def test_the_division(count, batch, limit):
    spec = InputSpec("image", np.dtype(np.float32), (batch, 3, *SIZE))
    fitted, judged = GivenSamples("", count, lambda _: None).divided((spec,), limit)
    assert not set(fitted) & set(judged) and set(fitted) | set(judged) <= set(range(count))
    assert (np.diff(fitted) > 0).all() and (np.diff(judged) > 0).all()
    assert len(judged) % (batch or 1) == 0
    if count < HELD_OUT_FROM:
        assert len(judged) == 0
    elif count > HELD_OUT_FROM + (batch or 1):
        assert HELD_OUT[0] <= len(judged) < HELD_OUT[1] + (batch or 1)
    most = count - len(judged)
    assert len(fitted) == (most if limit is None else min(max(limit, batch or 1), most))


@given(st.integers(0, 500), st.none() | st.integers(1, 600))
def test_evenly(count, limit):
    found = evenly(count, limit)
    assert len(found) == (count if limit is None else min(limit, count)) == len(set(found.tolist()))
    assert all(0 <= number < count for number in found)
    assert len(found) < 2 or np.ptp(np.diff(found)) <= 1


@pytest.mark.parametrize("batch", [4, 7])
def test_fixed_batches_are_filled(batch):
    model = conv_model(image=(batch, 3, *SIZE))
    source, options = {"image": numbered(90, 3, *SIZE)}, SampleOptions("arrays")
    judged = unseen(model, source, options).inputs["image"]
    calibrated = calibrate(model, source, options)
    assert len(judged) and len(judged) % batch == 0
    assert all(len(each["image"]) == batch for each in calibrated.batches)
    fitted = measured(model, source, options)
    assert not set(fitted) & set(numbers(judged)) and len(set(fitted)) == len(fitted) > 90 - len(judged) - batch


def test_samples_limit_what_is_measured_not_what_is_judged():
    source = {"image": numbered(400, 3, *SIZE)}
    free, limited = SampleOptions("arrays"), SampleOptions("arrays", samples=12)
    fitted = sorted(measured(conv_model(), source, limited))
    assert len(fitted) == 12 and min(np.diff(fitted)) > 20
    judged = [numbers(unseen(conv_model(), source, each).inputs["image"]) for each in (free, limited)]
    assert judged[0] == judged[1] and not set(fitted) & set(judged[0])


def test_a_folder_is_measured_on_up_to_a_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_IMAGES", 30)
    source, options = source_of("folder", 100, tmp_path)
    assert len(measured(conv_model(), source, options)) == 30


def test_labels_stay_with_what_is_held_out():
    source = {"image": numbered(100, 3, *SIZE), "labels": np.arange(100)}
    judged = unseen(conv_model(), source, SampleOptions("arrays"))
    assert judged.labels.tolist() == numbers(judged.inputs["image"])


# ---- photographs in place of few given samples


def given_images(count, channels, height=SIZE[0], width=SIZE[1]):
    """Images whose channels have means and deviations of their own."""
    rng = np.random.default_rng(0)
    mean, std = np.array([10.0, -3, 100])[:channels], np.array([2.0, 5, 20])[:channels]
    values = rng.standard_normal((count, channels, height, width))
    return (values * std[:, None, None] + mean[:, None, None]).astype(np.float32)


def assert_alike(found, images, axis=1):
    """Means within a deviation, deviations within a factor of 2, channel by channel."""
    others = tuple(other for other in range(4) if other != axis)
    deviation = images.std(axis=others)
    assert (np.abs(found.mean(axis=others) - images.mean(axis=others)) < deviation).all()
    assert (found.std(axis=others) < 2 * deviation).all() and (found.std(axis=others) > deviation / 2).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 20])
def test_photographs_are_scaled_like_the_given_arrays(channels, count):
    images = given_images(count, channels)
    judged = unseen(conv_model(image=("N", channels, *SIZE)), {"image": images}, SampleOptions("arrays"))
    assert "photographs" in judged.source
    assert_alike(judged.inputs["image"], images)


def test_channels_last_and_dynamic_sizes_are_those_of_the_given_arrays():
    graph = Builder()
    turned = graph.node("Transpose", graph.input(("N", "H", "W", 3), "image"), perm=[0, 3, 1, 2])
    model = load(graph.model(graph.conv(turned, 3, 2)))
    images = given_images(5, 3, 20, 12).transpose(0, 2, 3, 1)
    judged = unseen(model, {"image": images}, SampleOptions("arrays"), count=40)
    assert judged.inputs["image"].shape == (40, 20, 12, 3)
    assert_alike(judged.inputs["image"], images, axis=3)


def test_inputs_of_different_channels_are_scaled_alike():
    model = conv_model(colour=("N", 3, *SIZE), depth=("N", 1, *SIZE))
    colour, depth = given_images(9, 3), given_images(9, 1)
    judged = unseen(model, {"colour": colour, "depth": depth}, SampleOptions("arrays"), count=8)
    assert judged.inputs["colour"].shape == (8, 3, *SIZE) and judged.inputs["depth"].shape == (8, 1, *SIZE)
    centre, spread = colour.mean(), colour.std()
    for found in judged.inputs.values():
        assert abs(found.mean() - centre) < spread and spread / 2 < found.std() < 2 * spread


@pytest.mark.parametrize("value", [0.0, 1e-30, 255.0, -1e6])
def test_given_images_of_one_value_give_finite_ones(value):
    images = np.full((3, 3, *SIZE), value, np.float32)
    judged = unseen(conv_model(), {"image": images}, SampleOptions("arrays")).inputs["image"]
    np.testing.assert_allclose(judged, value, rtol=1e-4, atol=1e-6)


def test_a_normalisation_that_is_given_counts():
    options = SampleOptions("arrays", normalisation=Normalisation((0.2,), (4.0,)))
    judged = unseen(conv_model(), {"image": given_images(5, 3)}, options, count=6)
    expected = synthetic_inputs(conv_model(), 6, options, draw=len(DRAWS) - 1)
    np.testing.assert_array_equal(judged.inputs["image"], expected["image"])


def test_few_samples_that_are_no_images():
    judged = unseen(dense_model(), {"x": given_images(5, 1)[:, 0, 0, :6]}, SampleOptions("arrays"))
    assert judged.inputs["x"].shape[1:] == (6,) and judged.source == "synthetic samples, seed 0"


# ---- made-up samples


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_made_up_is_measured_and_judged(kind):
    model, options = conv_model(), SampleOptions(kind, samples=40)
    fitted = np.concatenate([batch["image"] for batch in calibrate(model, kind, options).batches])
    judged = unseen(model, kind, options).inputs["image"]
    every = np.concatenate([fitted, judged]).reshape(len(fitted) + len(judged), -1)
    assert len(np.unique(every, axis=0)) == len(every)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_judged_on_follows_the_seed(kind):
    first, again, other = (
        unseen(conv_model(), kind, SampleOptions(kind, seed=seed)).inputs["image"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_losses_on_made_up_samples_only_are_understated():
    """Whether the user gave too few or none, but not on those that are held out."""
    size = (3, SMALLEST_NORMALISED, SMALLEST_NORMALISED)
    model = conv_model(image=("N", *size))
    few, enough = ({"image": numbered(count, *size)} for count in (HELD_OUT_FROM - 1, HELD_OUT_FROM))
    made_up = [
        unseen(model, source, SampleOptions(form)) for source, form in ((few, "arrays"), (AUTO, AUTO), (LEAVES, LEAVES))
    ]
    assert {each.understates for each in made_up} == {samples.UNDERSTATED} and samples.UNDERSTATED > 1
    assert unseen(model, enough, SampleOptions("arrays")).understates == 1


@pytest.mark.parametrize("last", [True, False])
def test_losses_on_small_images_are_overstated(last):
    def factor(side):
        shape = (side, 80, 3) if last else (3, 80, side)
        return unseen(conv_model(image=("N", *shape)), AUTO, SampleOptions()).understates

    assert factor(SMALLEST_NORMALISED - 1) == samples.OVERSTATED < 1 < factor(SMALLEST_NORMALISED)


def test_small_images_are_judged_on_leaves():
    judged = unseen(conv_model(image=("N", 3, SMALLEST_PHOTOGRAPH - 1, 40)), AUTO, SampleOptions())
    assert judged.source == "synthetic samples, seed 0"


def test_how_many_are_made_up():
    model = conv_model()
    most = default_samples(model, input_specs(model), SampleOptions(), 0)
    found = unseen(model, AUTO, SampleOptions()).samples
    assert found == min(most // samples.JUDGED_SHARE, samples.MAX_BATCH)
    assert unseen(model, AUTO, SampleOptions(), count=5).samples == 5
    assert unseen(model, AUTO, SampleOptions(), macs=2**60).samples == samples.MIN_SAMPLES // samples.JUDGED_SHARE


def test_a_fixed_batch_is_filled_with_made_up_ones():
    model = conv_model(image=(4, 3, *SIZE))
    judged = unseen(model, AUTO, SampleOptions(), count=6).inputs
    assert len(judged["image"]) == 8
    session = open_session(model)
    for batch in calibrate(model, AUTO, SampleOptions(samples=9)).batches:
        assert np.isfinite(run(session, batch)[0]).all()


# ---- folds


def assert_folds(calibrated):
    """Two folds in turns, as long as both last."""
    assert len(calibrated.folds) == len(calibrated.batches)
    shorter = min(calibrated.folds.count(fold) for fold in (0, 1))
    assert shorter > 0 and calibrated.folds[: 2 * shorter] == (0, 1) * shorter


@pytest.mark.parametrize("kind", [AUTO, LEAVES])
def test_made_up_folds_alternate_and_are_of_draws_of_their_own(kind, monkeypatch):
    monkeypatch.setattr(samples, "BATCH_ELEMENTS", 3 * SIZE[0] * SIZE[1] * 4)
    model, options = conv_model(), SampleOptions(kind, samples=30)
    calibrated = calibrate(model, kind, options)
    assert_folds(calibrated)
    for fold in (0, 1):
        draw = synthetic_inputs(model, 15, options, fold)["image"]
        batches = [b["image"] for b, each in zip(calibrated.batches, calibrated.folds, strict=True) if each == fold]
        found = np.concatenate(batches)
        np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(draw, axis=0))


@pytest.mark.parametrize("made_up", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5, 100])
def test_even_few_samples_make_two_folds(made_up, count):
    source = AUTO if made_up else {"image": numbered(count, 3, *SIZE)}
    calibrated = calibrate(conv_model(), source, SampleOptions(samples=count))
    assert_folds(calibrated)


def test_a_single_sample_is_one_fold():
    for source in (AUTO, {"image": numbered(1, 3, *SIZE)}):
        assert calibrate(conv_model(), source, SampleOptions(samples=1)).folds == (0,)


@pytest.mark.parametrize("batch", ["N", 1, 8])
def test_folds_of_given_samples_share_none(batch, monkeypatch):
    monkeypatch.setattr(samples, "BATCH_ELEMENTS", 3 * SIZE[0] * SIZE[1] * 4)
    calibrated = calibrate(
        conv_model(image=(batch, 3, *SIZE)), {"image": numbered(200, 3, *SIZE)}, SampleOptions("arrays")
    )
    assert_folds(calibrated)
    of = {fold: set() for fold in calibrated.folds}
    for fold, each in zip(calibrated.folds, calibrated.batches, strict=True):
        of[fold] |= set(numbers(each["image"]))
    assert not of[0] & of[1]


def test_copies_that_top_up_given_rows_stay_in_their_fold(monkeypatch):
    """Elements of copies are replaced by others, but by none of the other fold."""
    monkeypatch.setattr(augmentation, "ENOUGH_ROWS", 300)
    calibrated = calibrate(dense_model(), {"x": numbered(50, 6)}, SampleOptions("arrays"))
    assert_folds(calibrated)
    values = {0: set(), 1: set()}
    for fold, batch in zip(calibrated.folds, calibrated.batches, strict=True):
        values[fold] |= set(np.unique(batch["x"]).tolist())
    assert not values[0] & values[1] and values[0] | values[1] == set(range(50))
    assert sum(len(batch["x"]) for batch in calibrated.batches) == 600


@pytest.mark.parametrize("batch", ["N", 10])
def test_samples_in_order_of_their_classes_are_mixed(batch, monkeypatch):
    """Every batch, and what is held out, holds each of four classes about as often."""
    monkeypatch.setattr(samples, "BATCH_ELEMENTS", 3 * SIZE[0] * SIZE[1] * 10)
    model = conv_model(image=(batch, 3, *SIZE))
    source = {"image": numbered(240, 3, *SIZE) // 60}
    calibrated = calibrate(model, source, SampleOptions("arrays"))
    judged = unseen(model, source, SampleOptions("arrays"))
    for images in [*(batch["image"] for batch in calibrated.batches), judged.inputs["image"]]:
        counts = np.bincount(numbers(images), minlength=4)
        assert counts.min() > 0 and np.ptp(counts) <= 3


def test_the_front_has_batches_of_every_fold():
    calibrated = calibrate(conv_model(), AUTO, SampleOptions(samples=30))
    front = calibrated.first(1)
    assert set(front.folds) == {0, 1} and len(front.batches) == len(front.folds) == 2
    whole = calibrated.first(calibrated.elements)
    assert whole.folds == calibrated.folds and whole.elements == calibrated.elements


def test_several_inputs_are_divided_alike():
    model = conv_model(a=("N", 3, *SIZE), b=("N", 1, *SIZE))
    source = {"a": numbered(100, 3, *SIZE), "b": numbered(100, 1, *SIZE)}
    for batch in [
        *calibrate(model, source, SampleOptions("arrays")).batches,
        unseen(model, source, SampleOptions()).inputs,
    ]:
        assert numbers(batch["a"]) == numbers(batch["b"])


def test_draws_of_what_is_no_image_are_of_other_seeds():
    draws = [synthetic_inputs(dense_model(), 50, SampleOptions(), draw)["x"] for draw in range(len(DRAWS))]
    rows = np.concatenate(draws)
    assert len(np.unique(rows, axis=0)) == len(rows) == 50 * len(DRAWS)
