"""Samples from every source, and one line that says what is wrong with a source that does not fit."""

import sys

import numpy as np
import pytest
from graphs import Builder
from onnx import TensorProto

from lbyl_onnx.calibration import samples as calibration
from lbyl_onnx.calibration.normalisation import normalised
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.cli.arguments import parse_normalisation, parse_shapes
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import Normalisation, SampleOptions


def image_model(batch="N", channels=3, height=8, width=6, last=False, kind=TensorProto.FLOAT):
    shape = (batch, height, width, channels) if last else (batch, channels, height, width)
    graph = Builder()
    return load(graph.model(graph.node("Cast", graph.input(shape, "image", kind), to=TensorProto.FLOAT)))


def model_of(**shapes):
    """A model with a float input for each shape; its only output is the sum of all their elements."""
    graph = Builder()
    sums = [graph.node("ReduceSum", graph.input(shape, name), keepdims=0) for name, shape in shapes.items()]
    return load(graph.model(graph.node("Sum", *sums)))


def calibrate(model, source="auto", **options):
    """Samples with these `SampleOptions`."""
    return calibration.calibrate(model, source, SampleOptions(**options))


def assert_runs(model, calibrated):
    """Every batch goes through the model."""
    session = open_session(model)
    assert calibrated.batches
    for batch in calibrated.batches:
        assert all(np.isfinite(value).all() for value in run(session, batch))


def joined(calibrated, name):
    return np.concatenate([batch[name] for batch in calibrated.batches])


def of_fold(calibrated, name, fold):
    pairs = zip(calibrated.batches, calibrated.folds, strict=True)
    return np.concatenate([batch[name] for batch, each in pairs if each == fold])


def assert_same_samples(found, expected):
    """In any order."""
    rows = [array.reshape(len(array), -1) for array in (found, expected)]
    found, expected = (array[np.lexsort(array.T[::-1])] for array in rows)
    np.testing.assert_array_equal(found, expected)


def count(calibrated, name="image"):
    return sum(len(batch[name]) for batch in calibrated.batches)


def refused(model, source, match, **options):
    with pytest.raises(UsageError, match=match) as caught:
        calibrate(model, source, **options)
    assert "\n" not in str(caught.value)


# ---- synthetic samples


def test_synthetic_samples_are_the_default():
    """Half of them for each of two folds, of draws of their own."""
    model = image_model()
    calibrated = calibrate(model, samples=5, seed=3)
    scaled = "normalised by mean 0.485,0.456,0.406, std 0.229,0.224,0.225"
    assert calibrated.synthetic and calibrated.source == f"5 synthetic samples, seed 3, {scaled}"
    for fold, half in enumerate((2, 3)):
        drawn = synthetic_inputs(model, half, SampleOptions(seed=3), fold)["image"]
        assert_same_samples(of_fold(calibrated, "image", fold), drawn)
    assert not np.isin(of_fold(calibrated, "image", 0), of_fold(calibrated, "image", 1)).any()
    assert not np.array_equal(joined(calibrate(model, samples=5), "image"), joined(calibrated, "image"))


@pytest.mark.parametrize(
    ("convolves", "size", "macs", "expected"),
    [
        (True, (4, 4), 0, 512),
        (True, (224, 224), 0, 256),
        (True, (320, 320), 0, 125),
        (True, (512, 512), 0, 64),
        (False, (4, 4), 0, 8192),
        (False, (320, 320), 0, 125),
        (True, (4, 4), 2**30, 256),
        (True, (224, 224), 2**31, 128),
        (True, (224, 224), 2**29, 256),
        (True, (224, 224), 2**40, 64),
    ],
)
def test_default_sample_counts(monkeypatch, convolves, size, macs, expected):
    """As many elements as 256 images of 224 x 224 and as many operations as 64 times those of a ResNet-50: from 64 to
    512 samples, without convolutions to 8192."""
    drawn = []

    def none_painted(model, samples, options, draw):
        drawn.append(samples)
        return {"image": np.broadcast_to(np.float32(0), (samples, *options.shapes["image"][1:]))}

    monkeypatch.setattr(calibration, "synthetic_inputs", none_painted)
    graph = Builder()
    x = graph.input(("N", 3, *size), "image")
    model = load(graph.model(graph.conv(x, 3, 2) if convolves else graph.node("Relu", x)))
    calibrated = calibration.calibrate(model, "auto", SampleOptions(), macs)
    assert drawn == [expected // 2, (expected + 1) // 2] and count(calibrated) == expected
    batches = [batch["image"] for batch in calibrated.batches]
    assert all(len(batch) == 1 or batch.size <= calibration.BATCH_ELEMENTS for batch in batches)


def test_shapes_and_normalisation_reach_the_generator():
    model = image_model(height="H", width="W")
    scaling = Normalisation((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    options = SampleOptions(samples=2, shapes={"image": (1, 3, 16, 12)}, normalisation=scaling)
    calibrated = calibration.calibrate(model, "auto", options)
    images = joined(calibrated, "image")
    assert images.shape == (2, 3, 16, 12)
    for fold in range(2):
        np.testing.assert_array_equal(images[[fold]], synthetic_inputs(model, 1, options, fold)["image"])
    assert images.min() >= np.float32(-0.6) and images.max() <= np.float32(1.8)


@pytest.mark.parametrize(("batch", "samples", "runs"), [(1, 3, 3), (4, 8, 2), (4, 9, 3)])
def test_a_static_batch_gives_the_slices(batch, samples, runs):
    """Synthetic samples fill whole batches."""
    model = image_model(batch=batch)
    calibrated = calibrate(model, samples=samples)
    assert [batch["image"].shape[0] for batch in calibrated.batches] == [batch] * runs
    assert_runs(model, calibrated)


def test_a_dynamic_batch_is_cut_by_size(monkeypatch):
    monkeypatch.setattr(calibration, "BATCH_ELEMENTS", 3 * 8 * 6 * 4)
    calibrated = calibrate(image_model(), samples=18)
    assert [len(batch["image"]) for batch in calibrated.batches] == [3] * 6 and calibrated.folds == (0, 1) * 3
    calibrated = calibrate(image_model(), {"image": rows(10, 3, 8, 6)})
    assert [len(batch["image"]) for batch in calibrated.batches] == [4, 3, 3] and calibrated.folds == (0, 1, 0)
    monkeypatch.setattr(calibration, "BATCH_ELEMENTS", 1)
    assert [len(batch["image"]) for batch in calibrate(image_model(), samples=3).batches] == [1, 1, 1]


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": ("N", 4), "b": ("N", 2, 3)},
        {"a": ("N", 4), "scale": ()},
        {"scale": (), "a": ("N", 4)},
        {"a": (1, 4), "b": (5, 4)},
        {"a": (5, 4), "b": (1, 4)},
        {"a": ("N", 4), "b": (2, 4)},
    ],
    ids=str,
)
def test_several_inputs(shapes):
    """Scalars go to each run whole; an input whose first axis is another fixed size gives that many rows."""
    model = model_of(**shapes)
    calibrated = calibrate(model, samples=4)
    assert_runs(model, calibrated)
    for batch in calibrated.batches:
        assert all(batch[name].ndim == len(shape) for name, shape in shapes.items())
    assert count(calibrated, next(name for name, shape in shapes.items() if shape)) >= 4


# ---- given arrays


def rows(count, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def test_arrays_and_a_file_give_the_same(tmp_path):
    model, images = image_model(), rows(7, 3, 8, 6)
    np.savez(tmp_path / "data.npz", image=images, labels=np.arange(7))
    given, read = calibrate(model, {"image": images}), calibrate(model, tmp_path / "data.npz")
    for calibrated in (given, read, calibrate(model, str(tmp_path / "data.npz"))):
        assert not calibrated.synthetic
        assert_same_samples(joined(calibrated, "image"), images)
        np.testing.assert_array_equal(of_fold(calibrated, "image", 0), images[0::2])
    assert given.source == "7 samples of given arrays"
    assert read.source == f"7 samples of {tmp_path / 'data.npz'}"


def test_samples_limit_what_is_used():
    images = rows(7, 3, 8, 6)
    calibrated = calibrate(image_model(), {"image": images}, samples=4)
    assert calibrated.source == "4 samples of given arrays"
    assert_same_samples(joined(calibrated, "image"), images[[0, 1, 3, 5]])
    assert count(calibrate(image_model(), {"image": images}, samples=100)) == 7


def test_a_static_batch_leaves_the_remainder_out():
    calibrated = calibrate(image_model(batch=3), {"image": rows(8, 3, 8, 6)})
    assert [len(batch["image"]) for batch in calibrated.batches] == [3, 3]
    assert calibrated.source == "6 samples of given arrays"


def test_types_are_converted_where_that_loses_little():
    calibrated = calibrate(image_model(), {"image": rows(2, 3, 8, 6).astype(np.float64)})
    assert joined(calibrated, "image").dtype == np.float32
    graph = Builder()
    table = graph.weight(10, 4)
    ids = graph.input(("N", 5), "ids", TensorProto.INT64)
    model = load(graph.model(graph.node("Gather", table, ids)))
    assert joined(calibrate(model, {"ids": np.ones((2, 5), np.int32)}), "ids").dtype == np.int64
    refused(model, {"ids": np.ones((2, 5), np.float32)}, "array 'ids' is float32, the model expects int64")


def test_the_arrays_given_stay_as_they_are():
    images = rows(3, 3, 8, 6)
    images.flags.writeable = False
    calibrate(image_model(), {"image": images})


def test_arrays_that_do_not_fit(tmp_path):
    refused(image_model(), {"image": rows(2, 3, 8, 7)}, r"given arrays: array 'image' has shape \(2, 3, 8, 7\)")
    refused(
        image_model(),
        tmp_path / "missing.npz",
        "missing.npz: no such file; expected .* or one of auto, photos, leaves, noise",
    )


def test_too_few_for_a_static_batch():
    refused(
        image_model(batch=4),
        {"image": rows(3, 3, 8, 6)},
        "input 'image' has 3 calibration samples, fewer .* at least 4",
    )


def test_the_size_that_a_dynamic_input_gets_is_said():
    calibrated = calibrate(image_model(height="H", width="W"), samples=1)
    assert calibrated.source.startswith("1 synthetic sample, seed 0, image 3x224x224, normalised by")


def test_fewer_than_a_static_batch_are_rounded_up():
    model = image_model(batch=4)
    calibrated = calibrate(model, {"image": rows(9, 3, 8, 6)}, samples=3)
    assert count(calibrated, "image") == 4
    assert_runs(model, calibrated)


@pytest.mark.parametrize("samples", [0, -1])
def test_a_number_of_samples_that_is_none(samples):
    refused(image_model(), {"image": rows(2, 3, 8, 6)}, "sample", samples=samples)
    refused(image_model(), "auto", "sample", samples=samples)


@pytest.mark.parametrize("samples", [None, 3])
def test_several_arrays(samples):
    """Scalars, an input with its own number of rows; arrays of unequal length are refused."""
    model = model_of(a=("N", 4), scale=())
    calibrated = calibrate(model, {"a": rows(5, 4), "scale": np.float32(2)}, samples=samples)
    assert count(calibrated, "a") == (samples or 5)
    assert_runs(model, calibrated)
    model = model_of(a=(1, 4), b=(5, 4))
    calibrated = calibrate(model, {"a": rows(4, 4), "b": rows(20, 4)}, samples=samples)
    np.testing.assert_array_equal(joined(calibrated, "b"), rows(20, 4)[: 5 * (samples or 4)])
    np.testing.assert_array_equal(joined(calibrated, "a"), rows(4, 4)[: samples or 4])
    assert_runs(model, calibrated)
    model = model_of(a=("N", 4), b=("N", 4))
    refused(model, {"a": rows(9, 4), "b": rows(7, 4)}, "differ in their number .*: a has 9, b has 7", samples=samples)


@pytest.mark.parametrize(("first", "second"), [(1, 5), (2, 5), (5, 2), (5, 1)])
@pytest.mark.parametrize(("runs", "samples"), [(4, None), (4, 7), (100, None), (100, 30)])
def test_rows_of_one_run_stay_together(first, second, runs, samples):
    """Where inputs give different numbers of rows to a run, samples are taken and fed in their order."""
    model = model_of(a=(first, 4), b=(second, 4))
    given = {"a": rows(first * runs, 4), "b": rows(second * runs, 4)}
    calibrated = calibrate(model, given, samples=samples)
    assert len(calibrated.batches) == (min(runs, max(samples // first, 1)) if samples else runs)
    for number, batch in enumerate(calibrated.batches):
        for name, size in (("a", first), ("b", second)):
            np.testing.assert_array_equal(batch[name], given[name][number * size :][:size])


# ---- folders of images


def paint(folder, *names, size=(6, 8), mode="RGB", colour=(255, 0, 51)):
    """Images of one colour (width, height), the first pixel black."""
    Image = pytest.importorskip("PIL.Image")
    folder.mkdir(exist_ok=True)
    for name in names:
        image = Image.new(mode, size, colour)
        image.putpixel((0, 0), 0 if mode == "L" else (0, 0, 0))
        image.save(folder / name)
    return folder


PLAIN = Normalisation((0.0,) * 3, (1.0,) * 3)


def test_images_are_read_in_the_order_of_their_names(tmp_path):
    paint(tmp_path, "b.png", "C.PNG", colour=(0, 255, 0))
    paint(tmp_path, "a.bmp")
    (tmp_path / "notes.txt").write_text("no image")
    calibrated = calibrate(image_model(), tmp_path, normalisation=PLAIN)
    images = joined(calibrated, "image")
    assert images.shape == (3, 3, 8, 6) and images.dtype == np.float32 and not calibrated.synthetic
    assert calibrated.source == f"3 samples of {tmp_path}, normalised by mean 0,0,0, std 1,1,1"
    np.testing.assert_allclose(images[:, :, 0, 0], 0)
    first = next(image for image in images if image[0, 3, 3] == 1)
    np.testing.assert_allclose(first[:, 3, 3], [1, 0, 0.2], rtol=1e-6)
    assert joined(calibrate(image_model(), str(tmp_path), samples=2), "image").shape[0] == 2


def test_of_many_images_some_are_taken_evenly(tmp_path, monkeypatch):
    for number in range(7):
        paint(tmp_path, f"{number}.png", colour=(number, 0, 0))
    some = calibrate(image_model(), tmp_path, samples=3, normalisation=PLAIN)
    np.testing.assert_allclose(sorted(joined(some, "image")[:, 0, 3, 3] * 255), [0, 2, 4], atol=1e-4)
    monkeypatch.setattr(calibration, "MAX_IMAGES", 5)
    assert joined(calibrate(image_model(), tmp_path), "image").shape[0] == 5


def test_an_image_that_is_too_large_to_open(tmp_path, monkeypatch):
    paint(tmp_path, "a.png", size=(40, 40))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    refused(image_model(), tmp_path, r"a\.png: is not a readable image .*; remove it")


def test_images_are_normalised_as_for_imagenet_by_default(tmp_path):
    images = joined(calibrate(image_model(), paint(tmp_path, "a.png")), "image")
    expected = (np.array([1, 0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(images[0, :, 3, 3], expected, rtol=1e-5)


def test_images_are_resized_and_their_axes_ordered_as_the_model_wants(tmp_path):
    paint(tmp_path, "a.png", size=(24, 40))
    paint(tmp_path, "b.jpg", size=(5, 5))
    last = calibrate(image_model(last=True), tmp_path, normalisation=PLAIN)
    first = calibrate(image_model(), tmp_path, normalisation=PLAIN)
    np.testing.assert_array_equal(joined(last, "image"), joined(first, "image").transpose(0, 2, 3, 1))
    assert_runs(image_model(last=True), last)
    dynamic = calibrate(image_model(height="H", width="W"), tmp_path, shapes={"image": (1, 3, 10, 20)})
    assert joined(dynamic, "image").shape == (2, 3, 10, 20)


def test_grey_images(tmp_path):
    paint(tmp_path, "colour.png", colour=(255, 255, 255))
    paint(tmp_path, "grey.png", mode="L", colour=255)
    images = joined(calibrate(image_model(channels=1), tmp_path), "image")
    assert images.shape == (2, 1, 8, 6)
    np.testing.assert_allclose(images[:, 0, 3, 3], 1)
    np.testing.assert_allclose(images[:, 0, 0, 0], -1)
    assert joined(calibrate(image_model(), tmp_path), "image").shape == (2, 3, 8, 6)


def test_images_for_integer_inputs_are_pixels(tmp_path):
    images = joined(calibrate(image_model(kind=TensorProto.UINT8), paint(tmp_path, "a.png")), "image")
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[0, :, 3, 3], [255, 0, 51])


def test_an_empty_folder(tmp_path):
    refused(image_model(), tmp_path, r"holds no images \(\.png")


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_corrupt_images(tmp_path, ending):
    paint(tmp_path, f"a.{ending}")
    (tmp_path / f"b.{ending}").write_bytes(b"not an image")
    refused(image_model(), tmp_path, rf"b\.{ending}: is not a readable image .*remove it from the folder")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sys.modules["PIL.Image"].fromarray(noise).save(tmp_path / f"b.{ending}")
    content = (tmp_path / f"b.{ending}").read_bytes()
    for kept in (len(content) // 2, 20):
        (tmp_path / f"b.{ending}").write_bytes(content[:kept])
        refused(image_model(), tmp_path, rf"b\.{ending}: is not a readable image")


def test_models_that_images_do_not_fit(tmp_path):
    paint(tmp_path, "a.png")
    refused(model_of(a=("N", 4)), tmp_path, r"fits a model with one image input; give an \.npz file")
    refused(model_of(a=("N", 3, 8, 8), b=("N", 3, 8, 8)), tmp_path, "fits a model with one image input")
    refused(image_model(channels=5), tmp_path, "'image' has 5 channels; images have 1 or 3")


@pytest.mark.parametrize("channels", [1, 4])
def test_a_normalisation_of_another_number_of_channels(tmp_path, channels):
    scaling = Normalisation((0.5,) * 3, (0.5,) * 3)
    refused(image_model(channels=channels), "auto", "channel", samples=2, normalisation=scaling)
    if channels == 1:
        refused(image_model(channels=1), paint(tmp_path, "a.png"), "channel", normalisation=scaling)


def test_one_mean_stands_for_all_channels(tmp_path):
    paint(tmp_path, "a.png")
    images = joined(calibrate(image_model(), tmp_path, normalisation=Normalisation((0.5,), (0.5,))), "image")
    np.testing.assert_allclose(images[0, :, 3, 3], [1, -1, -0.6], rtol=1e-5)


# ---- options as texts


def test_parse_shapes():
    assert parse_shapes([]) == {}
    assert parse_shapes(["image:1x3x224x224", "a:b:2x16", "n:7"]) == {
        "image": (1, 3, 224, 224),
        "a:b": (2, 16),
        "n": (7,),
    }


@pytest.mark.parametrize(
    "text", ["1x3x4", ":1x3", "image:", "image:1x", "image:axb", "image:1,3", "image:-1x3", "i:²x3"]
)
def test_shapes_that_are_none(text):
    with pytest.raises(UsageError, match=r"^--shape '.*' is not of the form NAME:1x3x224x224$"):
        parse_shapes([text])


def test_parse_normalisation():
    assert parse_normalisation(None, None, None) is None
    assert parse_normalisation("0.5,0.25", "1,2", None) == Normalisation((0.5, 0.25), (1.0, 2.0))
    assert parse_normalisation("0", "1", None) == Normalisation((0.0,), (1.0,))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (-127.5, 127.5), (0.25, 0.5)])
def test_a_range_is_where_pixels_end_up(low, high):
    pixels = np.array([0, 1, 0.5], np.float32).reshape(3, 1, 1, 1)
    images = normalised(pixels, parse_normalisation(None, None, f"{low},{high}"))
    np.testing.assert_allclose(images.ravel(), [low, high, (low + high) / 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std", "input_range", "message"),
    [
        ("0.5", None, None, "--mean and --std go together"),
        (None, "0.5", None, "--mean and --std go together"),
        ("0.5,0.5", "1", None, "--mean 0.5,0.5 and --std 1: expected as many means as positive deviations"),
        ("0.5", "0", None, "positive deviations"),
        ("0.5", "-1", None, "positive deviations"),
        ("half", "1", None, "--mean 'half': expected numbers"),
        ("123.7,116.3,103.5", "58,57,57", None, r"pixel values in \[0, 1\]; divide it and --std by 255"),
        ("", "1", None, "--mean '': expected numbers"),
        ("0.5", "nan", None, "--std"),
        ("inf", "1", None, "--mean"),
        (None, None, "0", "--input-range '0': expected LOW,HIGH"),
        (None, None, "1,0", "--input-range '1,0': expected LOW,HIGH"),
        (None, None, "0,1,2", "expected LOW,HIGH"),
        (None, None, "a,b", "--input-range 'a,b': expected numbers"),
        (None, None, "nan,1", "--input-range"),
        (None, None, "0,inf", "--input-range"),
        ("0", "1", "0,255", "without --mean and --std"),
        (None, "1", "0,255", "without --mean and --std"),
    ],
)
def test_normalisations_that_are_none(mean, std, input_range, message):
    with pytest.raises(UsageError, match=message):
        parse_normalisation(mean, std, input_range)


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 4, 9]), (10, range(10)), (99, range(10))])
def test_some_batches_from_everywhere(count, expected):
    """They keep their folds."""
    batches = [{"x": np.full((1, 2), number, np.float32)} for number in range(10)]
    found = calibration.Calibration(batches, tuple(number % 2 for number in range(10)), True, "").spread(count)
    assert [int(batch["x"][0, 0]) for batch in found.batches] == list(expected)
    assert found.folds == tuple(number % 2 for number in expected)
