"""Arrays that users give: what can be read, and what fits an input."""

import numpy as np
import pytest
from graphs import Builder
from uniform import compress

from lbyl_onnx.calibration.dead_leaves import dead_leaves
from lbyl_onnx.calibration.inputs import InputSpec
from lbyl_onnx.calibration.normalisation import normalised
from lbyl_onnx.calibration.samples import calibrate
from lbyl_onnx.calibration.user_samples import doubts, read_npz, read_samples
from lbyl_onnx.errors import UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import Normalisation, SampleOptions


def rows(*shape):
    return np.ones(shape, np.float32)


IMAGE = InputSpec("image", np.dtype(np.float32), (None, 3, 8, 6))


def input_array(spec, arrays):
    """What is read of `arrays` for the only input of a model."""
    return read_samples((spec,), arrays, SampleOptions(), "arrays").inputs[spec.name]


def test_arrays_are_read_by_name(tmp_path):
    np.savez(tmp_path / "data.npz", a=rows(2, 3), b=np.arange(4))
    found = read_npz(tmp_path / "data.npz", "arrays")
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["b"], np.arange(4))


def test_files_that_cannot_be_read(tmp_path):
    np.savez(tmp_path / "whole.npz", image=rows(2, 3, 8, 6))
    whole = (tmp_path / "whole.npz").read_bytes()
    contents = {"text.npz": b"not an archive", "empty.npz": b"", "truncated.npz": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array.npy", rows(2, 3, 8, 6))
    np.savez(tmp_path / "objects.npz", image=np.array([None, {}]))
    for name in [*contents, "array.npy", "objects.npz", ""]:
        with pytest.raises(UsageError, match=rf"{name}: not a readable \.npz file .*; expected two arrays, written"):
            read_npz(tmp_path / name, "two arrays")
    with pytest.raises(UsageError, match=r"missing\.npz: no such file; expected two arrays"):
        read_npz(tmp_path / "missing.npz", "two arrays")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"picture": rows(2, 3, 8, 6)},
            r"given arrays: no array named 'image' as the model's input; found \['picture'\]",
        ),
        ({}, r"found \[\]"),
        ({"image": rows(2, 3, 8, 7)}, r"'image' has shape \(2, 3, 8, 7\), the model expects \(\?, 3, 8, 6\)"),
        ({"image": rows(2, 3, 8)}, r"'image' has shape \(2, 3, 8\)"),
        ({"image": np.float32(1)}, r"'image' has shape \(\)"),
        ({"image": np.full((2, 3, 8, 6), "text")}, "'image' is <U4, the model expects float32"),
        ({"image": rows(2, 3, 8, 6).astype(np.complex64)}, "'image' is complex64"),
        ({"image": np.full((2, 3, 8, 6), np.nan)}, "'image' holds values that are NaN or infinite; leave these"),
        ({"image": np.full((2, 3, 8, 6), np.inf, np.float32)}, "NaN or infinite"),
        ({"image": rows(0, 3, 8, 6)}, r"'image' is empty, shape \(0, 3, 8, 6\); give at least one sample"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message):
    with pytest.raises(UsageError, match=message) as caught:
        input_array(IMAGE, arrays)
    assert "\n" not in str(caught.value)


def test_arrays_are_cast_where_that_is_safe():
    for dtype in (np.uint8, np.float16, np.float64):
        assert input_array(IMAGE, {"image": rows(2, 3, 8, 6).astype(dtype)}).dtype == np.float32
    masked = np.full((2, 3, 8, 6), -np.inf)
    np.testing.assert_array_equal(input_array(IMAGE, {"image": masked}), masked)
    scalar = InputSpec("scale", np.dtype(np.float32), ())
    assert input_array(scalar, {"scale": np.float64(2)}) == 2


# ---- several arrays


def test_labels_belong_to_the_samples():
    arrays = {"image": rows(3, 3, 8, 6), "labels": np.array([1, 0, 2], np.int32)}
    found = read_samples((IMAGE,), arrays, SampleOptions(), "arrays")
    assert found.samples == 3 and found.source == "given arrays"
    np.testing.assert_array_equal(found.labels, [1, 0, 2])
    for labels in (np.arange(4), np.ones(3), np.zeros((3, 1), int)):
        with pytest.raises(UsageError, match=r"given arrays: labels are .*; expected integers of shape \(3,\)"):
            read_samples((IMAGE,), arrays | {"labels": labels}, SampleOptions(), "arrays")


def test_inputs_have_as_many_samples_each():
    specs = [InputSpec(name, np.dtype(np.float32), (None, 4)) for name in "ab"]
    with pytest.raises(UsageError, match="inputs differ in their number of samples: a has 5, b has 3; give as many"):
        read_samples(specs, {"a": rows(5, 4), "b": rows(3, 4)}, SampleOptions(), "arrays")


def test_a_source_of_another_type():
    with pytest.raises(UsageError, match=r"^calibration is a list; expected two arrays$"):
        read_samples((IMAGE,), [rows(2, 3, 8, 6)], SampleOptions(), "two arrays")


# ---- folders of images


def paint(folder, *names, colour=(255, 0, 51)):
    """Images of one colour, the first pixel black."""
    Image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = Image.new("RGB", (6, 8), colour)
        image.putpixel((0, 0), (0, 0, 0))
        image.save(folder / name)


def test_images_in_subfolders_are_found(tmp_path):
    """Of any depth, in the order of their paths; one folder for each class is common."""
    paint(tmp_path / "dogs", "a.png", colour=(51, 0, 0))
    paint(tmp_path / "cats" / "grey", "z.JPG", colour=(0, 0, 0))
    paint(tmp_path, "m.png", colour=(255, 0, 0))
    (tmp_path / "folder.png").mkdir()
    plain = SampleOptions(normalisation=Normalisation((0.0,), (1.0,)))
    found = read_samples((IMAGE,), tmp_path, plain, "a folder")
    assert found.samples == 3 and found.labels is None
    np.testing.assert_allclose(found.inputs["image"][:, 0, 3, 3], [0, 0.2, 1], atol=1e-6)


def test_a_folder_without_images_at_any_depth(tmp_path):
    (tmp_path / "inner" / "a.png").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds no images \(\.png"):
        read_samples((IMAGE,), tmp_path, SampleOptions(), "a folder")


# ---- doubts


def photographs(count=16, channels=3, seed=1):
    """Made-up ones with values in [0, 1]."""
    return dead_leaves(count, channels, 8, 6, seed)


def told(images, normalisation=None, spec=IMAGE):
    return doubts([spec], {"image": images}, normalisation)


def pixels_to(low, high):
    return Normalisation((-low / (high - low),), (1 / (high - low),))


STATED = [None, Normalisation((0.5,), (0.25,)), pixels_to(0, 255), pixels_to(-1, 1), pixels_to(0, 1)]


@pytest.mark.parametrize("normalisation", STATED, ids=str)
def test_photographs_under_the_normalisation_that_is_stated_are_not_doubted(normalisation):
    assert told(normalised(photographs(), normalisation), normalisation) == []


def test_a_sample_that_holds_one_value():
    images = normalised(photographs(), None)
    images[3] = 0
    (warning,) = told(images)
    assert warning == "1 of 16 samples of 'image' holds one value everywhere"
    images[7] = -1.5
    assert told(images) == ["2 of 16 samples of 'image' hold one value everywhere"]


def test_pixels_for_a_model_of_floating_point_numbers():
    (warning,) = told(photographs() * 255)
    assert "'image' lie in 0 to 2" in warning and "not normalised" in warning and "--input-range 0,255" in warning
    assert told(photographs() * 255, pixels_to(-1, 1)) == [warning]


@pytest.mark.parametrize(
    "images", [lambda x: 20 * x - 10, lambda x: 0.01 * x, lambda x: x - 30], ids=["wide", "narrow", "shifted"]
)
def test_a_mean_or_deviation_far_from_the_expected(images):
    (warning,) = told(images(normalised(photographs(), None)))
    assert "mean 0.449 and std 0.226" in warning and "--mean and --std, or --input-range" in warning
    assert "\n" not in warning


def test_the_deviation_is_that_of_the_normalisation_that_is_stated():
    images = normalised(photographs(), pixels_to(-100, 100))
    assert told(images, pixels_to(-100, 100)) == [] != told(images)


def test_other_inputs_are_not_doubted():
    whole = InputSpec("image", np.dtype(np.uint8), IMAGE.shape)
    assert told(np.zeros((4, 3, 8, 6), np.uint8), spec=whole) == []
    vector = InputSpec("image", np.dtype(np.float32), (None, 7))
    assert told(np.full((4, 7), 1000, np.float32), spec=vector) == []


def test_doubts_are_told_with_the_samples_and_in_the_report():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(IMAGE.shape, "image"), 3, 8))
    proto = graph.model(graph.conv(hidden, 8, 4))
    samples = {"image": photographs() * 255}
    (warning,) = calibrate(load(proto), samples, SampleOptions()).warnings
    assert "--input-range 0,255" in warning
    assert warning in compress(proto, 0.5, calibration=samples, validation=False).report.warnings
    assert calibrate(load(proto), "auto", SampleOptions(samples=2)).warnings == ()
