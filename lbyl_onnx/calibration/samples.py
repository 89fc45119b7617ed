"""Samples that activations are measured on: made-up ones by default, or the user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError
from ..model.model import Model
from ..options import SampleOptions
from .augmentation import sees_rows, topped_up, varied_images
from .inputs import InputSpec, concrete_shapes, input_specs, samples_within
from .normalisation import stated
from .synthetic import convolves, synthetic_inputs
from .user_samples import Source, doubts, read_samples

SYNTHETIC = "synthetic"
EXPECTED = "an .npz file with an array for each input, a folder of images, or 'synthetic'"
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
    the model's own normalisation statistics say what activations look like. `source`: where they come from.
    `warnings`: what is strange about them."""

    batches: list[dict[str, np.ndarray]]
    synthetic: bool
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Elements of all inputs."""
        return sum(array.size for batch in self.batches for array in batch.values())

    def first(self, elements: int) -> Calibration:
        """The first batches, at least one, with about as many `elements` of input."""
        sizes = np.cumsum([sum(array.size for array in batch.values()) for batch in self.batches])
        return replace(self, batches=self.batches[: 1 + int((sizes[1:] <= elements).sum())])


def calibrate(model: Model, source: Source, options: SampleOptions) -> Calibration:
    """Samples for `model` from `source`.

    `source`: "synthetic"; an .npz file or mapping with an array for each input, first axis = samples, as the model
    expects them; or a folder of images, resized to the model's input and normalised, evenly from those in the order of
    their names. `options.samples`: how many at most (None: of synthetic ones as many as fit ELEMENTS, from 64 to 512,
    or 8192 without convolutions; of a folder 512; else all), rounded up to what one run of the model takes. Models
    without convolutions get more various ones (`augmentation`). Raises UsageError where the source does not fit the
    model.
    """
    specs = input_specs(model)
    if is_synthetic(source):
        return _synthetic(model, specs, options)
    given = read_samples(specs, source, options, EXPECTED)
    arrays = given.inputs
    batches = _batches(specs, arrays, options.samples)
    first = next((spec.name for spec in specs if spec.shape), None)
    count = sum(len(batch[first]) if first else 1 for batch in batches)
    if sees_rows(model, specs):
        (spec,) = specs
        batches = _batches(specs, {spec.name: topped_up(arrays[spec.name][: options.samples], options.seed)})
    return Calibration(
        batches, False, f"{count} samples of {given.source}", tuple(doubts(specs, arrays, options.normalisation))
    )


def is_synthetic(source: object) -> bool:
    """Whether samples are to be made up."""
    return isinstance(source, str) and source == SYNTHETIC


def _synthetic(model: Model, specs: tuple[InputSpec, ...], options: SampleOptions) -> Calibration:
    chosen = concrete_shapes(specs, 1, shapes=options.shapes)
    most = MAX_SAMPLES if convolves(model) else MAX_VECTORS
    count = options.samples or samples_within(ELEMENTS, chosen, MIN_SAMPLES, most)
    options = replace(options, shapes=chosen)
    if sees_rows(model, specs) and specs[0].channel_axis is not None:
        arrays = {specs[0].name: varied_images(model, specs[0].name, count, options)}
    else:
        arrays = synthetic_inputs(model, count, options)
    words = f"{count} synthetic samples, seed {options.seed}{stated(specs, options)}"
    return Calibration(_batches(specs, arrays), True, words)


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
