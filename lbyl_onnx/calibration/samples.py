"""Samples that activations are measured on: synthetic ones by default, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..model.file import Model
from .augmentation import topped_up, varied_images
from .synthetic import (
    InputSpec,
    Normalisation,
    as_input,
    concrete_shapes,
    convolves,
    input_specs,
    samples_within,
    scaling,
    synthetic_inputs,
)
from .user_samples import input_array, read_npz

EXPECTED = "an .npz file with an array for each input, a folder of images, or 'synthetic'"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ELEMENTS = 64 * 3 * 224 * 224
"""Elements of synthetic input that are made by default, within MIN_SAMPLES and MAX_SAMPLES."""
MIN_SAMPLES, MAX_SAMPLES = 64, 512
MAX_VECTORS = 8192
"""The limit for a model without convolutions, whose layers see one row a sample, not one a position."""
BATCH_ELEMENTS = 2 * 3 * 224 * 224
MAX_BATCH = 128


@dataclass(frozen=True)
class Calibration:
    """`batches`: per run of the model, an array for each input. `synthetic`: whether they were made up, so that only
    the model's own normalisation statistics say what activations look like. `source`: where they come from."""

    batches: list[dict[str, np.ndarray]]
    synthetic: bool
    source: str

    @property
    def elements(self) -> int:
        """Elements of all inputs."""
        return sum(array.size for batch in self.batches for array in batch.values())

    def first(self, elements: int) -> Calibration:
        """The first batches, at least one, with about as many `elements` of input."""
        sizes = np.cumsum([sum(array.size for array in batch.values()) for batch in self.batches])
        return replace(self, batches=self.batches[: 1 + int((sizes[1:] <= elements).sum())])


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
    expects them; or a folder of images, resized to the model's input and normalised, evenly from those in the order of
    their names. `samples`: how many at most (None: for synthetic ones as many as fit ELEMENTS, from 64 to 512, or 8192
    without convolutions; of a folder 512; else all), rounded up to what one run of the model takes. `shapes`:
    sizes of dynamic inputs. Models without convolutions get more various ones (`variety`). Raises UsageError where the
    source does not fit the model.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"--samples is {samples}; expected at least 1")
    specs = input_specs(model)
    varied = _sees_rows(model, specs)
    chosen = concrete_shapes(specs, 1, shapes=shapes)
    sizes = [f"{spec.name} {'x'.join(map(str, chosen[spec.name][1:]))}" for spec in specs if None in spec.shape[1:]]
    stated = "".join(f", {words}" for words in (*sizes, scaling(specs, chosen, normalisation)) if words)
    if isinstance(source, str) and source == "synthetic":
        most = MAX_SAMPLES if convolves(model) else MAX_VECTORS
        count = samples or samples_within(ELEMENTS, chosen, MIN_SAMPLES, most)
        if varied and specs[0].channel_axis is not None:
            arrays = {specs[0].name: varied_images(model, specs[0].name, count, seed, chosen, normalisation)}
        else:
            arrays = synthetic_inputs(model, count, seed, chosen, normalisation)
        return Calibration(_batches(specs, arrays), True, f"{count} synthetic samples, seed {seed}{stated}")
    if isinstance(source, Mapping):
        arrays, name, stated = dict(source), "given arrays", ""
    elif Path(source).is_dir():
        arrays, name = _read_images(specs, chosen, Path(source), samples, normalisation), str(source)
    else:
        arrays, name, stated = read_npz(Path(source), EXPECTED), str(source), ""
    arrays = {spec.name: input_array(spec, arrays, name) for spec in specs}
    batches = _batches(specs, arrays, samples)
    first = next((spec.name for spec in specs if spec.shape), None)
    count = sum(len(batch[first]) if first else 1 for batch in batches)
    if varied:
        (spec,) = specs
        batches = _batches(specs, {spec.name: topped_up(arrays[spec.name][:samples], seed)})
    return Calibration(batches, False, f"{count} samples of {name}{stated}")


def _sees_rows(model: Model, specs: tuple[InputSpec, ...]) -> bool:
    """Whether the model multiplies a single input of numbers, any number of samples a run, without convolutions."""
    single = len(specs) == 1 and specs[0].dtype.kind == "f" and specs[0].shape[:1] in ((None,), (1,))
    multiplies = any(node.op_type in ("Gemm", "MatMul") for node in model.proto.graph.node)
    return single and multiplies and not convolves(model)


def _batches(
    specs: tuple[InputSpec, ...], arrays: dict[str, np.ndarray], samples: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Slices of the model's own batch size where that is fixed, else of about BATCH_ELEMENTS elements.

    An input whose first axis is fixed to another size gives that many rows to each run, a scalar is fed whole.
    """
    fixed = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    elements = sum(math.prod(arrays[spec.name].shape[1:]) for spec in specs)
    size = fixed or int(np.clip(BATCH_ELEMENTS // max(elements, 1), 1, MAX_BATCH))
    rows = {spec.name: spec.shape[0] or size for spec in specs if spec.shape}
    for name, count in rows.items():
        least = count if fixed else 1
        if len(arrays[name]) < least:
            raise UsageError(
                f"{len(arrays[name])} calibration samples of input {name!r} are fewer than one run of the model takes; "
                f"give at least {least}"
            )
    sampled = [name for name, count in rows.items() if count == size]
    total = min((len(arrays[name]) for name in sampled), default=size)
    total = min(total, max(samples, size if fixed else 1) if samples else total)
    arrays = arrays | {name: arrays[name][:total] for name in sampled}
    runs = min([len(arrays[name]) // count if fixed else -(-total // size) for name, count in rows.items()], default=1)
    return [
        {
            spec.name: arrays[spec.name][run * rows[spec.name] : (run + 1) * rows[spec.name]]
            if spec.shape
            else arrays[spec.name]
            for spec in specs
        }
        for run in range(runs)
    ]


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
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    count = min(samples or MAX_SAMPLES, len(paths))
    paths = [paths[index * len(paths) // count] for index in range(count)]
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
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"{path}: is not a readable image ({error}); remove it from the folder") from None
        pixels.append(np.asarray(image, np.float32).reshape(height, width, channels) / 255)
    return {spec.name: as_input(np.stack(pixels).transpose(0, 3, 1, 2), spec, normalisation)}


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from texts such as "image:1x3x224x224"; UsageError where one is not of this form."""
    shapes = {}
    for text in texts or []:
        name, _, sizes = text.rpartition(":")
        if not name or not all(size.isdecimal() for size in sizes.split("x")):
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
                f"--input-range {input_range!r}: expected LOW,HIGH, LOW below HIGH, without --mean and --std"
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
    if max(means) > 1:
        raise UsageError(f"--mean {mean}: expected means of pixel values in [0, 1]; divide it and --std by 255")
    return Normalisation(means, deviations)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"--{option} {text!r}: expected numbers with commas between them")
    return numbers
