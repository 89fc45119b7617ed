"""Samples that activations are measured on: synthetic ones by default, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import UsageError
from .model_file import Model
from .synthetic import InputSpec, Normalisation, concrete_shapes, input_specs, synthetic_inputs

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ELEMENTS = 64 * 3 * 224 * 224
"""Elements of synthetic input that are made by default, within MIN_SAMPLES and MAX_SAMPLES."""
MIN_SAMPLES, MAX_SAMPLES = 64, 256
BATCH_ELEMENTS = 16 * 3 * 224 * 224
MAX_BATCH = 128


@dataclass(frozen=True)
class Calibration:
    """`batches`: per run of the model, an array for each input. `synthetic`: whether they were made up, so that only
    the model's own normalisation statistics say what activations look like. `source`: where they come from."""

    batches: list[dict[str, np.ndarray]]
    synthetic: bool
    source: str

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches)


def calibrate(
    model: Model,
    source: str | Path | Mapping[str, np.ndarray] = "synthetic",
    samples: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
) -> Calibration:
    """Samples for `model` from `source`.

    `source`: "synthetic"; an .npz file or mapping with an array for each input, first axis = samples, as the model
    expects them; or a folder of images, resized to the model's input and normalised. `samples`: how many at most (None:
    for synthetic ones as many as fit ELEMENTS, from 64 to 256; else all). `shapes`: sizes of dynamic inputs.
    Raises UsageError where the source does not fit the model.
    """
    specs = input_specs(model)
    if isinstance(source, str) and source == "synthetic":
        chosen = concrete_shapes(specs, 1, shapes=shapes)
        count = samples or _default_samples(chosen)
        arrays = synthetic_inputs(model, count, seed, chosen, normalisation)
        return Calibration(_batches(specs, arrays), True, f"{count} synthetic samples, seed {seed}")
    if isinstance(source, Mapping):
        arrays, name = dict(source), "given arrays"
    elif Path(source).is_dir():
        chosen = concrete_shapes(specs, 1, shapes=shapes)
        arrays, name = _read_images(specs, chosen, Path(source), samples, normalisation), str(source)
    else:
        arrays, name = _read_npz(Path(source)), str(source)
    arrays = _fitting(specs, arrays, name)
    arrays = {key: array[:samples] for key, array in arrays.items()}
    batches = _batches(specs, arrays)
    return Calibration(batches, False, f"{len(next(iter(arrays.values())))} samples of {name}")


def _default_samples(shapes: Mapping[str, tuple[int, ...]]) -> int:
    elements = sum(math.prod(shape[1:]) for shape in shapes.values())
    return int(np.clip(ELEMENTS // max(elements, 1), MIN_SAMPLES, MAX_SAMPLES))


def _batches(specs: tuple[InputSpec, ...], arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Slices of the model's own batch size where that is fixed, else of about BATCH_ELEMENTS elements."""
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    total = min(len(arrays[spec.name]) for spec in specs if spec.shape)
    elements = sum(math.prod(arrays[spec.name].shape[1:]) for spec in specs)
    size = fixed[0] if fixed else int(np.clip(BATCH_ELEMENTS // max(elements, 1), 1, MAX_BATCH))
    if fixed and total < size:
        raise UsageError(
            f"{total} calibration samples are fewer than the model's batch of {size}; give at least {size}"
        )
    starts = range(0, total - size + 1 if fixed else total, size)
    return [
        {spec.name: arrays[spec.name][start : start + size] if spec.shape else arrays[spec.name] for spec in specs}
        for start in starts
    ]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as data:
            return dict(data)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{path}: cannot be read as calibration data ({error}); expected an .npz file with an array for each "
            "input, a folder of images, or 'synthetic'"
        ) from None


def _fitting(specs: tuple[InputSpec, ...], arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    result = {}
    for spec in specs:
        if spec.name not in arrays:
            raise UsageError(f"{name}: no array for input {spec.name!r}; found {sorted(arrays)}")
        array = arrays[spec.name]
        fits = array.ndim == len(spec.shape) and all(
            size in (None, found) for size, found in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise UsageError(
                f"{name}: array {spec.name!r} is {array.dtype} of shape {array.shape}, the model expects {spec.dtype} "
                f"of shape {spec.shape}"
            )
        result[spec.name] = array.astype(spec.dtype, copy=False)
    return result


def _read_images(
    specs: tuple[InputSpec, ...],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    samples: int | None,
    normalisation: Normalisation | None,
) -> dict[str, np.ndarray]:
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("a folder of images needs Pillow: python -m pip install 'lbyl-onnx[images]'") from None
    if len(specs) != 1 or specs[0].channel_axis is None:
        raise UsageError(f"{folder}: a folder of images fits a model with one image input; give an .npz file instead")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)[:samples]
    if not paths:
        raise UsageError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    spec, shape = specs[0], shapes[specs[0].name]
    channels = shape[spec.channel_axis or 1]
    height, width = shape[1:3] if spec.channel_axis == 3 else shape[2:]
    mode = "L" if channels == 1 else "RGB"
    if channels not in (1, 3):
        raise UsageError(f"input {spec.name!r} has {channels} channels; images have 1 or 3: give an .npz file instead")
    pixels = []
    for path in paths:
        try:
            image = Image.open(path).convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        except OSError as error:
            raise UsageError(f"{path}: is not a readable image ({error}); remove it from the folder") from None
        pixels.append(np.asarray(image, np.float32).reshape(height, width, channels) / 255)
    images = (normalisation or Normalisation.default(channels)).apply(np.stack(pixels).transpose(0, 3, 1, 2))
    return {spec.name: images.transpose(0, 2, 3, 1) if spec.channel_axis == 3 else images}


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from texts such as "image:1x3x224x224"; UsageError where one is not of this form."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        if not name or not all(size.isdigit() for size in sizes.split("x")):
            raise UsageError(f"--shape {text!r} is not of the form NAME:1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes


def parse_normalisation(mean: str | None, std: str | None, input_range: str | None) -> Normalisation | None:
    """The scaling of images that the options state, None if none is; UsageError where they contradict one another.

    A range (low, high) stands for the mean and deviation that take pixel values in [0, 1] there.
    """
    if input_range is not None:
        values = _numbers("input-range", input_range)
        if mean or std or len(values) != 2 or values[0] >= values[1]:
            raise UsageError(
                f"--input-range {input_range!r}: expected LOW,HIGH, and neither --mean nor --std beside it"
            )
        low, high = values
        return Normalisation((-low / (high - low),), (1 / (high - low),))
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UsageError("--mean and --std go together; give both, or --input-range")
    means, deviations = _numbers("mean", mean), _numbers("std", std)
    if len(means) != len(deviations) or min(deviations) <= 0:
        raise UsageError(f"--mean {mean} and --std {std}: expected as many means as positive deviations")
    return Normalisation(means, deviations)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{option} {text!r}: expected numbers with commas between them") from None
