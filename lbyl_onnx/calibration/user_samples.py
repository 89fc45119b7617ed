"""Samples that users give: arrays by input name, read from .npz files and checked against the model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .synthetic import InputSpec, format_shape


def read_npz(path: Path, expected: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises UsageError, which says what was `expected`, where there is no such file or it is no archive of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected {expected}") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path}: not a readable .npz file of plain arrays ({type(error).__name__}); expected {expected}, written "
            "with numpy.savez, without object arrays"
        ) from None


def input_array(spec: InputSpec, arrays: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    """The one of `arrays` for an input, first axis = samples, of the input's dtype.

    Raises UsageError, which names the `source`, where there is none or it does not fit the input.
    """
    if spec.name not in arrays:
        raise UsageError(f"{source}: no array named {spec.name!r} as the model's input; found {sorted(arrays)}")
    array = np.asarray(arrays[spec.name])
    where = f"{source}: array {spec.name!r}"
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise UsageError(f"{where} is {array.dtype}, the model expects {spec.dtype}; convert it")
    same_rank = array.ndim == len(spec.shape)
    if not same_rank or any(
        expected not in (None, found) for found, expected in zip(array.shape[1:], spec.shape[1:], strict=True)
    ):
        expected_shape = format_shape((None, *spec.shape[1:]) if spec.shape else ())
        raise UsageError(f"{where} has shape {array.shape}, the model expects {expected_shape}, first axis = samples")
    if array.dtype.kind == "f" and not (array < np.inf).all():
        raise UsageError(f"{where} holds values that are NaN or infinite; leave these samples out")
    if array.size == 0:
        raise UsageError(f"{where} is empty, shape {array.shape}; give at least one sample")
    return array.astype(spec.dtype, copy=False)
