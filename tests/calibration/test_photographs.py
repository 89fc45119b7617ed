"""Crops of photographs: what they look like, which pictures they are made of, and which inputs get them."""

import importlib.metadata
import socket
from itertools import chain, combinations

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from PIL import Image
from uniform import compress

from lbyl_onnx.calibration import photographs as module
from lbyl_onnx.calibration import synthetic
from lbyl_onnx.calibration.inputs import input_specs
from lbyl_onnx.calibration.photographs import FITTED, HELD_OUT, available, photographs
from lbyl_onnx.calibration.samples import calibrate, unseen
from lbyl_onnx.calibration.synthetic import (
    AUTO,
    DRAWS,
    JUDGED_PASTED,
    LEAVES,
    NOISE,
    PHOTOS,
    SMALLEST_NORMALISED,
    SMALLEST_PHOTOGRAPH,
    kind_of_images,
    synthetic_inputs,
)
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import Normalisation, SampleOptions

PIXELS = Normalisation((0.0,), (1.0,))
"""Leaves images in [0, 1]."""
SIZE = (SMALLEST_PHOTOGRAPH + 4, SMALLEST_PHOTOGRAPH)


def image_model(shape=("N", 3, *SIZE), kind=TensorProto.FLOAT, convolves=True):
    """A model that casts its image to floats and, unless told otherwise, convolves it; channels last where these are
    last in `shape`."""
    graph = Builder()
    hidden = graph.node("Cast", graph.input(shape, "image", kind), to=TensorProto.FLOAT)
    last = shape[3] in (1, 3, 4)
    hidden = graph.node("Transpose", hidden, perm=[0, 3, 1, 2]) if last else hidden
    channels = shape[3] if last else shape[1]
    return load(graph.model(graph.conv(hidden, channels, 2) if convolves else graph.node("Relu", hidden)))


@pytest.fixture
def plain_pictures(monkeypatch):
    """Pictures of one colour each: "white" and the first of each draw are white, others black."""
    white = {"white", *(draw[0] for draw in DRAWS)}

    def picture(name, shortest):
        return Image.new("RGB", (60, 40), (255, 255, 255) if name in white else (0, 0, 0))

    monkeypatch.setattr(module, "_picture", picture)


@pytest.fixture
def grey_pictures(monkeypatch):
    """Pictures of one grey, of which no two crops are equally bright."""
    monkeypatch.setattr(module, "_picture", lambda name, shortest: Image.new("RGB", (60, 40), (128, 128, 128)))


def with_others(images):
    """Which images of one colour have others in them."""
    return (images != images[:, :, :1, :1]).any(axis=(1, 2, 3))


@pytest.fixture
def used(monkeypatch):
    """Which pictures each call of `photographs` was made of."""
    calls, make = [], synthetic.photographs

    def watched(samples, channels, height, width, pictures, *others, **options):
        calls.append(set(pictures))
        return make(samples, channels, height, width, pictures, *others, **options)

    monkeypatch.setattr(synthetic, "photographs", watched)
    return calls


# ---- the images


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    pictures=st.sampled_from(DRAWS),
)
def test_any_number_of_images_of_any_size(samples, channels, height, width, seed, pictures):
    images = photographs(samples, channels, height, width, pictures, seed)
    assert images.shape == (samples, channels, height, width) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(4, 4), (9, 1), (1, 9), (5, 90), (90, 5), (600, 700)])
def test_small_narrow_and_large_images_differ_from_sample_to_sample(height, width):
    images = photographs(3, 3, height, width, FITTED[0], 0)
    assert images.shape == (3, 3, height, width) and np.isfinite(images).all()
    assert all(np.abs(first - second).max() > 0.01 for first, second in combinations(images, 2))


def test_the_same_seed_gives_the_same_images():
    first, again, other = (photographs(5, 3, 12, 16, FITTED[1], seed) for seed in ([3, 0, 1], [3, 0, 1], [3, 1, 1]))
    np.testing.assert_array_equal(first, again)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))


def test_images_vary_in_all_that_networks_see():
    """Within an image and from one to the next, in brightness and between channels."""
    images = photographs(60, 3, 24, 24, FITTED[0], 0)
    assert images.std(axis=(2, 3)).mean() > 0.05
    assert images.mean(axis=(1, 2, 3)).std() > 0.05
    assert images.mean(axis=(2, 3)).std(axis=1).mean() > 0.02
    assert 0.25 < images.mean() < 0.65


def test_grey_images_are_the_coloured_ones_without_colour():
    grey, colour = (photographs(4, channels, 10, 7, FITTED[0], 5) for channels in (1, 3))
    np.testing.assert_allclose(grey, colour.mean(axis=1, keepdims=True), atol=1e-6)


def test_the_first_crop_takes_pictures_in_turns_and_rectangles_of_any_are_pasted(plain_pictures):
    """Black stays black and white no darker than the variation allows, so every pixel says which picture it is of."""
    images = photographs(40, 3, 30, 20, ("black", "white"), 0)
    lit = images.min(axis=1) > 0
    assert ((images.max(axis=1) == 0) | (images.min(axis=1) > (1 - module.VARIATION) ** 2 - 1e-3)).all()
    share = lit.mean(axis=(1, 2))
    assert share[0::2].max() < 1 and share[1::2].min() > 0
    pasted = [share[0::2] > 0, share[1::2] < 1]
    assert all(0.3 < each.mean() < 1 for each in pasted)
    rows, columns = np.nonzero(lit[np.flatnonzero(share[0::2])[0] * 2])
    assert len(np.unique(rows)) > 1 and len(np.unique(columns)) > 1


def test_without_rectangles_an_image_is_one_crop(plain_pictures):
    images = photographs(10, 3, 30, 20, ("black", "white"), 0, pasted=0)
    assert (images == images[:, :, :1, :1]).all()
    assert (images[0::2] == 0).all() and (images[1::2] > 0).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_a_share_of_the_crops_has_others_in_them(share, grey_pictures):
    found = with_others(photographs(400, 3, 30, 20, ("grey",), 0, share)).mean()
    assert abs(found - share) < 0.1 and (found == share or 0 < share < 1)


def test_half_of_the_crops_are_mirrored_and_some_have_their_channels_permuted(monkeypatch):
    """Crops of a picture that is red, and brighter to the right."""
    row = np.linspace(0, 200, 60, dtype=np.uint8)
    pixels = np.stack([np.tile(row, (40, 1)), *np.zeros((2, 40, 60), np.uint8)], axis=2)
    monkeypatch.setattr(module, "_picture", lambda name, shortest: Image.fromarray(pixels))
    images = photographs(200, 3, 8, 8, ("red",), 0, pasted=0)
    mirrored = (images[..., 0] > images[..., -1]).any(axis=(1, 2))
    assert 0.4 < mirrored.mean() < 0.6
    red = images.mean(axis=(2, 3)).argmax(axis=1)
    expected = 1 - module.PERMUTED * 2 / 3
    assert abs((red == 0).mean() - expected) < 0.1 and (red == 1).any() and (red == 2).any()


def test_neighbours_are_alike_as_in_photographs():
    images = photographs(20, 1, 48, 48, FITTED[1], 0)
    steps = np.abs(np.diff(images, axis=3)).mean()
    anywhere = np.abs(images - np.roll(images, 24, axis=3)).mean()
    assert steps < 0.5 * anywhere


# ---- the pictures


def test_folds_and_the_judged_draw_share_no_picture():
    assert len(set(chain(*DRAWS))) == sum(map(len, DRAWS)) and all(len(draw) > 1 for draw in DRAWS)
    assert (*FITTED, HELD_OUT) == DRAWS


def test_all_pictures_come_with_the_wheel():
    brought = {str(path) for path in importlib.metadata.files("scikit-image")}
    assert {f"skimage/data/{name}" for name in chain(*DRAWS)} <= brought
    assert all(available(draw) == draw for draw in DRAWS)


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    module._picture.cache_clear()
    for draw in DRAWS:
        assert photographs(len(draw), 3, 8, 8, draw, 0).std() > 0


def test_pictures_that_are_missing_are_left_out(monkeypatch, tmp_path):
    (tmp_path / "there.png").write_bytes(b"")
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    assert available(("there.png", "gone.png")) == ("there.png",)
    monkeypatch.undo()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert available(FITTED[0]) == ()


def test_draws_are_of_their_own_pictures(used):
    images = [synthetic_inputs(image_model(), 4, SampleOptions(), draw)["image"] for draw in range(len(DRAWS))]
    assert used == [set(draw) for draw in DRAWS]
    assert all((first != second).any() for first, second in combinations(images, 2))


def test_all_that_is_measured_on_has_rectangles_and_a_share_of_what_is_judged(grey_pictures):
    model, options = image_model(), SampleOptions(normalisation=PIXELS)
    for draw, pictures in enumerate(DRAWS):
        share = with_others(synthetic_inputs(model, 400, options, draw)["image"]).mean()
        assert share == 1 if pictures != HELD_OUT else abs(share - JUDGED_PASTED) < 0.1


def test_measuring_and_judging_use_other_pictures(used):
    model, options = image_model(), SampleOptions(samples=12)
    calibrated = calibrate(model, AUTO, options)
    measured, used[:] = list(used), []
    judged = unseen(model, AUTO, options)
    assert [set(draw) for draw in FITTED] == measured and used == [set(HELD_OUT)]
    assert calibrated.source.startswith("12 crops of 12 photographs, seed 0")
    assert judged.source == "crops of 2 other photographs, seed 0"


# ---- the inputs that get them


def kind(model, shape, calibration=AUTO):
    (spec,) = input_specs(model)
    return kind_of_images(model, spec, (1, *shape), SampleOptions(calibration=calibration))


@pytest.mark.parametrize(
    ("channels", "convolves", "expected"),
    [
        (1, True, PHOTOS),
        (3, True, PHOTOS),
        (2, True, LEAVES),
        (4, True, LEAVES),
        (1, False, LEAVES),
        (3, False, LEAVES),
        (4, False, LEAVES),
    ],
)
def test_what_images_are_by_default(used, channels, convolves, expected):
    model = image_model(("N", channels, *SIZE), convolves=convolves)
    assert kind(model, (channels, *SIZE)) == expected
    synthetic_inputs(model, 2)
    assert bool(used) == (expected == PHOTOS)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("less", "expected"), [((0, 0), PHOTOS), ((0, 1), LEAVES), ((1, 0), LEAVES), ((-40, 1), LEAVES), ((-40, 0), PHOTOS)]
)
def test_images_with_a_small_side_are_leaves_by_default(used, less, last, expected):
    """As declared, and where a size that is declared to be any is given."""
    size = tuple(SMALLEST_PHOTOGRAPH - each for each in less)
    for declared in (size, ("H", "W")):
        full, sized = ((3, *size), (3, *declared)) if not last else ((*size, 3), (*declared, 3))
        model, options = image_model(("N", *sized)), SampleOptions(samples=4, shapes={"image": (1, *full)})
        assert kind(model, full) == expected
        assert ("photographs" in calibrate(model, AUTO, options).source) == (expected == PHOTOS) == bool(used)
        assert ("photographs" in unseen(model, AUTO, options).source) == (expected == PHOTOS)
        used.clear()


def normalised_model(side):
    """As `image_model`, with BatchNormalization behind the convolution."""
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, side, 80), "image"), 3, 2, bias=False)
    return load(graph.model(graph.batch_norm(hidden, 2)))


@pytest.mark.parametrize(("side", "expected"), [(SMALLEST_NORMALISED, PHOTOS), (SMALLEST_NORMALISED - 1, LEAVES)])
def test_images_of_models_that_normalise_have_to_be_larger(side, expected):
    assert kind(normalised_model(side), (3, side, 80)) == expected
    assert kind(image_model(("N", 3, side, 80)), (3, side, 80)) == PHOTOS
    assert kind(normalised_model(side), (3, side, 80), PHOTOS) == PHOTOS
    judged = unseen(normalised_model(side), AUTO, SampleOptions())
    assert judged.source == "crops of 2 other photographs, seed 0"


def test_small_images_are_photographs_where_they_are_asked_for(used):
    model = image_model(("N", 3, 8, 6))
    assert kind(model, (3, 8, 6), PHOTOS) == PHOTOS
    assert "crops of 12 photographs" in calibrate(model, PHOTOS, SampleOptions(PHOTOS, samples=4)).source and used


@pytest.mark.parametrize("calibration", [PHOTOS, LEAVES, NOISE])
@pytest.mark.parametrize("convolves", [True, False])
def test_what_is_asked_for_by_name_counts(calibration, convolves):
    assert kind(image_model(convolves=convolves), (3, *SIZE), calibration) == calibration


def test_a_path_is_no_kind_of_images():
    assert kind(image_model(), (3, *SIZE), "samples.npz") == PHOTOS


@pytest.mark.parametrize("channels", [2, 4])
def test_photographs_of_other_numbers_of_channels_are_refused(channels):
    model = image_model(("N", channels, *SIZE))
    for call in (
        lambda: kind(model, (channels, *SIZE), PHOTOS),
        lambda: calibrate(model, PHOTOS, SampleOptions(PHOTOS)),
        lambda: unseen(model, PHOTOS, SampleOptions(PHOTOS)),
    ):
        with pytest.raises(UsageError, match=rf"'image' has {channels} channels, and photographs are for 1 or 3") as no:
            call()
        assert no.value.parameter == "calibration" and "\n" not in str(no.value)


def test_compress_refuses_photographs_that_do_not_fit():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 4, *SIZE)), 4, 8))
    with pytest.raises(UsageError, match=r"^calibration photos: input 'x' has 4 channels"):
        compress(graph.model(graph.conv(hidden, 8, 2)), 0.5, calibration=PHOTOS)


def test_without_the_pictures_there_are_leaves(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert kind(image_model(), (3, *SIZE)) == LEAVES
    with pytest.raises(UsageError, match="where scikit-image brings its pictures along"):
        kind(image_model(), (3, *SIZE), PHOTOS)


@pytest.mark.parametrize(("type_", "low"), [(TensorProto.UINT8, 0), (TensorProto.INT8, -128), (TensorProto.INT32, 0)])
def test_integer_inputs_with_channels_last_get_pixels(type_, low):
    model = image_model(("N", 20, 22, 3), type_)
    (images,) = synthetic_inputs(model, 8).values()
    assert images.shape == (8, 20, 22, 3) and images.dtype.kind in "iu"
    assert low <= images.min() < low + 20 and low + 235 < images.max() <= low + 255
    (scaled,) = synthetic_inputs(
        image_model(("N", 3, 20, 22)), 8, SampleOptions(normalisation=Normalisation((0.0,) * 3, (1.0,) * 3))
    ).values()
    np.testing.assert_array_equal(images.astype(np.int64) - low, np.round(scaled * 255).transpose(0, 2, 3, 1))


def test_dynamic_sizes_are_those_asked_for():
    model = image_model(("N", 3, "H", "W"))
    options = SampleOptions(samples=4, shapes={"image": (1, 3, 20, 17)}, normalisation=PIXELS)
    calibrated = calibrate(model, AUTO, options)
    images = np.concatenate([batch["image"] for batch in calibrated.batches])
    assert images.shape == (4, 3, 20, 17) and images.min() >= 0 and images.max() <= 1
    assert "crops of 12 photographs, seed 0, image 3x20x17" in calibrated.source
    assert unseen(model, AUTO, options, count=2).inputs["image"].shape == (2, 3, 20, 17)
    assert synthetic_inputs(model, 1)["image"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("kind", [AUTO, PHOTOS, LEAVES, NOISE])
@pytest.mark.parametrize("size", [(4, 4), (4, 9), (40, 4)])
def test_the_smallest_images(size, kind):
    (images,) = synthetic_inputs(image_model(("N", 1, *size)), 5, SampleOptions(kind)).values()
    assert images.shape == (5, 1, *size) and len(np.unique(images.reshape(5, -1), axis=0)) == 5


def test_probing_a_model_paints_no_photographs(used):
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, *SIZE)), 3, 8))
    compress(graph.model(graph.conv(hidden, 8, 2)), 0.5, restore="lbyl", criterion="l2", validation=False)
    assert not used
