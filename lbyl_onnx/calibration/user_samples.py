"""Samples that users give, arrays by input name or images in a folder, checked against the model."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from PIL import Image

from ..errors import UsageError, article, counted
from ..model.session import rows_of
from ..options import Normalisation, SampleOptions
from .inputs import InputSpec, concrete_shapes, fixed_batch, format_shape
from .normalisation import BRIGHTNESS, CONTRAST, as_input, stated

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_IMAGES = 512
"""Images that are read of a folder by default."""
HELD_OUT_FROM, ONE_HELD_OUT_OF, HELD_OUT = 64, 10, (16, 64)
"""Of at least so many samples, one of so many is held out to judge the result by, within these ends."""
UNLIKELY = 3.0
"""How many times wider or narrower than normalised images, or how many of their deviations away, samples are taken to
be scaled otherwise."""

Source = str | Path | Mapping[str, np.ndarray]
ARRAYS = "arrays"
"""What a record calls samples that were no files."""


@dataclass(frozen=True)
class SampleSet:
    """An array for each input, first axis = samples, `labels`, int64 (samples,) or None, and where they come from.
    `classes`: how many classes there have to be for the labels to hold (None: any number above them). `understates`:
    by how much losses on them have to be multiplied to be those on samples of the right kind. `made_up`: whether nobody
    gave them."""

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    source: str
    classes: int | None = None
    understates: float = 1.0
    made_up: bool = False

    @property
    def samples(self) -> int:
        """How many samples there are: the length of the first array that is no scalar."""
        return rows_of(self.inputs)


@dataclass(frozen=True)
class GivenSamples:
    """What a user gave: `count` samples, of which `take` reads those of some indices."""

    source: str
    count: int
    take: Callable[[np.ndarray], SampleSet]

    def divided(self, specs: Sequence[InputSpec], limit: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Indices of samples to measure on, at most `limit` or what one run takes, and of those held out to judge by,
        both evenly spread; none of the latter where there are too few."""
        batch = fixed_batch(specs) or 1
        if not alike(specs):
            return np.arange(self.count)[: limit and max(limit, batch)], np.arange(0)
        share = int(np.clip(self.count // ONE_HELD_OUT_OF, *HELD_OUT)) if self.count >= HELD_OUT_FROM else 0
        judged = evenly(self.count, -(-share // batch) * batch)
        measured = np.setdiff1d(np.arange(self.count), judged)
        if len(measured) < batch:
            judged, measured = measured[:0], np.arange(self.count)
        return measured[evenly(len(measured), limit and max(limit, batch))], judged


def open_samples(specs: Sequence[InputSpec], source: Source, options: SampleOptions, expected: str) -> GivenSamples:
    """What a user gave: arrays by input name, perhaps with `labels`, an .npz file of such, or a folder of images, which
    have labels where they lie in sub-folders, by the numbers that all of these are named with, else by their order.

    Raises UsageError, which says what was `expected`, where they do not fit the inputs.
    """
    check_source(source, expected)
    if is_folder(source):
        return _open_images(specs, Path(source), options)
    name = "given arrays" if isinstance(source, Mapping) else str(source)
    arrays = source if isinstance(source, Mapping) else read_npz(Path(source), expected)
    inputs = _input_arrays(specs, arrays, name)
    labels = arrays.get("labels") if "labels" not in inputs else None
    labels = None if labels is None else _labels(np.asarray(labels), rows_of(inputs), name)
    sampled = {key for key, array in inputs.items() if array.ndim and len(array) == rows_of(inputs)}

    def take(indices: np.ndarray) -> SampleSet:
        chosen = {key: array[indices] if key in sampled else array for key, array in inputs.items()}
        return SampleSet(chosen, None if labels is None else labels[indices], name)

    return GivenSamples(name, rows_of(inputs), take)


def read_samples(
    specs: Sequence[InputSpec], source: Source, options: SampleOptions, expected: str, most_images: int = MAX_IMAGES
) -> SampleSet:
    """All that a user gave, or `options.samples` (of images `most_images`) of them, evenly spread."""
    given = open_samples(specs, source, options, expected)
    limit = options.samples or (most_images if is_folder(source) else None)
    limit = limit and max(limit, fixed_batch(specs) or 1)
    return given.take(evenly(given.count, limit) if alike(specs) else np.arange(given.count)[:limit])


def alike(specs: Sequence[InputSpec]) -> bool:
    """Whether every input has one row for each sample; if not, samples have to stay in their order."""
    return all(spec.shape[0] in (None, fixed_batch(specs)) for spec in specs if spec.shape)


def evenly(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` of the numbers below `count`, evenly spread, int64."""
    wanted = count if limit is None else min(limit, count)
    return np.arange(wanted) * count // max(wanted, 1)


def source_name(source: Source) -> str:
    """What a record calls a source: a kind, a path, or ARRAYS."""
    return str(source) if isinstance(source, str | Path) else ARRAYS


def is_folder(source: object) -> TypeGuard[str | Path]:
    """Whether samples come from a folder of images."""
    return isinstance(source, str | Path) and Path(source).is_dir()


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
    batch = fixed_batch(specs)
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


def _open_images(specs: Sequence[InputSpec], folder: Path, options: SampleOptions) -> GivenSamples:
    """Images of a folder, resized to the model's one image input and normalised, first axis = samples.

    Raises UsageError where the model has other inputs or, when it is read, a file is no image.
    """
    if len(specs) != 1 or specs[0].channel_axis is None:
        raise UsageError(f"{folder}: a folder of images fits a model with one image input; give an .npz file instead")
    spec = specs[0]
    shape = concrete_shapes(specs, 1, shapes=options.shapes)[spec.name]
    channels = shape[spec.channel_axis or 1]
    if channels not in (1, 3):
        raise UsageError(f"input {spec.name!r} has {channels} channels; images have 1 or 3: give an .npz file instead")
    size = shape[1:3] if spec.channel_axis == 3 else shape[2:]
    paths = image_paths(folder)
    labels, classes = _labels_of_images(folder, paths)

    def take(indices: np.ndarray) -> SampleSet:
        pixels = np.stack([_pixels(paths[index], channels, size) for index in indices])
        inputs = {spec.name: as_input(pixels, spec, options.normalisation)}
        words = f"{folder}{stated(specs, options)}"
        return SampleSet(inputs, None if labels is None else labels[indices], words, classes)

    return GivenSamples(str(folder), len(paths), take)


def _labels_of_images(folder: Path, paths: Sequence[Path]) -> tuple[np.ndarray | None, int | None]:
    """Labels, int64, by the sub-folders that images lie in, and how many classes that makes: where all are named with
    numbers these, of any number of classes, else their order. None where some image lies in none."""
    if any(path.parent == folder for path in paths):
        return None, None
    names = np.array([path.relative_to(folder).parts[0] for path in paths])
    if all(name.isdecimal() for name in names):
        return names.astype(np.int64), None
    found, labels = np.unique(names, return_inverse=True)
    return labels.astype(np.int64), len(found)


def _pixels(path: Path, channels: int, size: Sequence[int]) -> np.ndarray:
    """An image of `size` (height, width), float32 (channels, height, width) in [0, 1]."""
    height, width = size
    try:
        image = Image.open(path).convert("L" if channels == 1 else "RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: is not a readable image ({error}); remove it from the folder") from None
    return np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255


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
            hold = "holds" if blank == 1 else "hold"
            told.append(f"{blank} of {counted(len(array), 'sample')} of {spec.name!r} {hold} one value everywhere")
        channels = array.shape[spec.channel_axis]
        chosen = normalisation or Normalisation.default(channels)
        mean, spread = float(np.mean(chosen.mean)), CONTRAST
        centre, deviation = (BRIGHTNESS - mean) / float(np.mean(chosen.std)), spread / float(np.mean(chosen.std))
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
