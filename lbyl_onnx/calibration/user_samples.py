"""Samples that users give, arrays by input name or images in a folder, checked against the model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError, article
from ..options import Normalisation, SampleOptions
from .inputs import InputSpec, concrete_shapes, format_shape
from .normalisation import as_input, stated

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_IMAGES = 512
"""Images that are read of a folder by default."""
UNLIKELY = 3.0
"""How many times wider or narrower than normalised images, or how many of their deviations away, samples are taken to
be scaled otherwise."""


Source = str | Path | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SampleSet:
    """An array for each input, first axis = samples, `labels`, int64 (samples,) or None, and where they come from."""

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    source: str

    @property
    def samples(self) -> int:
        """How many samples there are: the length of the first array that is no scalar."""
        return rows_of(self.inputs)


def rows_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Samples in a set of inputs: the length of the first that is no scalar."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)


def read_samples(specs: Sequence[InputSpec], source: Source, options: SampleOptions, expected: str) -> SampleSet:
    """What a user gave: arrays by input name, perhaps with `labels`, an .npz file of such, or a folder of images.

    Of images at most `options.samples` (MAX_IMAGES), evenly from those in the order of their names, are read. Raises
    UsageError, which says what was `expected`, where they do not fit the inputs.
    """
    check_source(source, expected)
    if not isinstance(source, Mapping) and Path(source).is_dir():
        paths = _evenly(image_paths(Path(source)), options.samples or MAX_IMAGES)
        inputs = _read_images(specs, Path(source), paths, options)
        return SampleSet(inputs, None, f"{source}{stated(specs, options)}")
    name = "given arrays" if isinstance(source, Mapping) else str(source)
    arrays = source if isinstance(source, Mapping) else read_npz(Path(source), expected)
    inputs = _input_arrays(specs, arrays, name)
    labels = arrays.get("labels") if "labels" not in inputs else None
    return SampleSet(inputs, None if labels is None else _labels(np.asarray(labels), rows_of(inputs), name), name)


def check_source(source: object, expected: str) -> None:
    """Raise UsageError, which says what was `expected`, where `source` can be no samples."""
    if not isinstance(source, str | Path | Mapping):
        raise UsageError(f"is {article(type(source).__name__)}; expected {expected}", "calibration")


def _labels(labels: np.ndarray, samples: int, source: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise UsageError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; expected integers of shape ({samples},)"
        )
    return labels


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


def _input_arrays(specs: Sequence[InputSpec], arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The one of `arrays` for each input, first axis = samples, of the input's dtype.

    Raises UsageError, which names the `source`, where one is missing or does not fit its input, or where they differ in
    their number of samples.
    """
    found = {spec.name: _input_array(spec, arrays, source) for spec in specs}
    batch = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    counts = {spec.name: len(found[spec.name]) for spec in specs if spec.shape and spec.shape[0] in (None, batch)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError(f"{source}: inputs differ in their number of samples: {told}; give as many of each")
    return found


def _input_array(spec: InputSpec, arrays: Mapping[str, np.ndarray], source: str) -> np.ndarray:
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


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder and its sub-folders, by name; UsageError where there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise UsageError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def _read_images(
    specs: Sequence[InputSpec], folder: Path, paths: Sequence[Path], options: SampleOptions
) -> dict[str, np.ndarray]:
    """Images of a folder, resized to the model's one image input and normalised, first axis = samples.

    Raises UsageError where the model has other inputs, a file is no image, or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("a folder of images needs Pillow: python -m pip install 'lbyl-onnx[images]'") from None
    if len(specs) != 1 or specs[0].channel_axis is None:
        raise UsageError(f"{folder}: a folder of images fits a model with one image input; give an .npz file instead")
    spec = specs[0]
    shape = concrete_shapes(specs, 1, shapes=options.shapes)[spec.name]
    channels = shape[spec.channel_axis or 1]
    height, width = shape[1:3] if spec.channel_axis == 3 else shape[2:]
    mode = "L" if channels == 1 else "RGB"
    if channels not in (1, 3):
        raise UsageError(f"input {spec.name!r} has {channels} channels; images have 1 or 3: give an .npz file instead")
    pixels = []
    for path in paths:
        try:
            image = Image.open(path).convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"{path}: is not a readable image ({error}); remove it from the folder") from None
        pixels.append(np.asarray(image, np.float32).reshape(height, width, channels) / 255)
    return {spec.name: as_input(np.stack(pixels).transpose(0, 3, 1, 2), spec, options.normalisation)}


def _evenly(items: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def doubts(
    specs: Sequence[InputSpec], arrays: Mapping[str, np.ndarray], normalisation: Normalisation | None
) -> list[str]:
    """Sentences about given images that look as if something had gone wrong with them.

    Values that lie far from those of normalised images are either wrong, or show that made-up images need another
    normalisation.
    """
    told = []
    for spec in specs:
        array = arrays[spec.name]
        if spec.channel_axis is None or spec.dtype.kind != "f":
            continue
        samples = array.reshape(len(array), -1)
        blank = int((samples == samples[:, :1]).all(axis=1).sum())
        if blank:
            told.append(f"{blank} of {len(array)} samples of {spec.name!r} hold one value everywhere")
        channels = array.shape[spec.channel_axis]
        chosen = normalisation or Normalisation.default(channels)
        mean, spread = float(np.mean(chosen.mean)), 0.25
        centre, deviation = (0.46 - mean) / float(np.mean(chosen.std)), spread / float(np.mean(chosen.std))
        found_centre, found = float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
        apart = abs(found_centre - centre) > UNLIKELY * max(deviation, found)
        if not apart and deviation / UNLIKELY < found < deviation * UNLIKELY:
            continue
        if array.min() >= 0 and array.max() > 2 * UNLIKELY and array.max() <= 255:
            told.append(
                f"values of {spec.name!r} lie in {array.min():.3g} to {array.max():.3g}, like pixels that are not "
                "normalised; if that is what the model expects, state it for made-up images: --input-range 0,255"
            )
        else:
            told.append(
                f"values of {spec.name!r} have mean {found_centre:.3g} and deviation {found:.3g}, images normalised by "
                f"mean {np.mean(chosen.mean):.3g} and std {np.mean(chosen.std):.3g} about {centre:.2g} and "
                f"{deviation:.2g}; state the model's own with --mean and --std, or --input-range"
            )
    return told
