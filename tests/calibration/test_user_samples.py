"""Arrays that users give: what can be read, and what fits an input."""

import numpy as np
import pytest

from lbyl_onnx.calibration.synthetic import InputSpec
from lbyl_onnx.calibration.user_samples import input_array, read_npz
from lbyl_onnx.errors import UsageError


def rows(*shape):
    return np.ones(shape, np.float32)


IMAGE = InputSpec("image", np.dtype(np.float32), (None, 3, 8, 6))


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
        ({"picture": rows(2, 3, 8, 6)}, r"eval: no array named 'image' as the model's input; found \['picture'\]"),
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
        input_array(IMAGE, arrays, "eval")
    assert "\n" not in str(caught.value)


def test_arrays_are_cast_where_that_is_safe():
    for dtype in (np.uint8, np.float16, np.float64):
        assert input_array(IMAGE, {"image": rows(2, 3, 8, 6).astype(dtype)}, "eval").dtype == np.float32
    masked = np.full((2, 3, 8, 6), -np.inf)
    np.testing.assert_array_equal(input_array(IMAGE, {"image": masked}, "eval"), masked)
    scalar = InputSpec("scale", np.dtype(np.float32), ())
    assert input_array(scalar, {"scale": np.float64(2)}, "eval") == 2
