"""Samples that activations are measured on, and others that results are judged on: made up, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest

import numpy as np

from ..errors import UsageError, counted
from ..model.model import Model
from ..model.session import DEFAULTS
from ..options import RunOptions, SampleOptions
from .augmentation import sees_rows, topped_up, varied_images
from .inputs import InputSpec, concrete_shapes, fixed_batch, input_specs, sizes_of
from .normalisation import normalisation_like, stated
from .photographs import FITTED, HELD_OUT, available
from .samples_used import SamplesUsed, samples_used
from .synthetic import AUTO, JUDGING, KINDS, PHOTOS, SMALLEST_NORMALISED, convolves, kind_of_images, synthetic_inputs
from .user_samples import MAX_IMAGES, SampleSet, Source, alike, doubts, is_folder, open_samples

EXPECTED = f"an .npz file with an array for each input, a folder of images, or one of {', '.join(KINDS)}"
AFFORDED_MACS = 64 * 4 * 2**30
"""Multiply-accumulates that the original spends on made-up samples by default: 64 of a ResNet-50."""
AFFORDED_ELEMENTS = 256 * 3 * 224 * 224
"""Elements of made-up samples by default."""
MIN_SAMPLES, MAX_SAMPLES = 64, 512
MAX_VECTORS = 8192
"""The limit for a model without convolutions, whose layers see one row a sample, not one a position."""
UNDERSTATED, OVERSTATED = 1.5, 0.5
"""How many times as much a result loses on samples of the right kind as on made-up ones, and as on images with a side
below SMALLEST_NORMALISED, of whose classes a network is sure whatever they show (`benchmarks/expected_loss.py`)."""
JUDGED_SHARE = 4
"""One sample is made up to judge the result for so many that it is measured on."""
BATCH_ELEMENTS = 2 * 3 * 224 * 224
MAX_BATCH = 128
FRONT_ELEMENTS = 12 * 3 * 224 * 224
"""Elements of input in the batches that go in front."""
FOLDS = 2

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """`batches`: per run of the model, an array for each input; `folds`: which fold each of them belongs to, from 0.
    `synthetic`: whether they were made up, so that only the model's own normalisation statistics say what activations
    look like. `source`: where they come from. `warnings`: what is strange about them. `used`: those of a user."""

    batches: list[Batch]
    folds: tuple[int, ...]
    synthetic: bool
    source: str
    warnings: tuple[str, ...] = ()
    used: SamplesUsed = field(default_factory=SamplesUsed)

    @property
    def elements(self) -> int:
        """Elements of all inputs."""
        return sum(array.size for batch in self.batches for array in batch.values())

    @property
    def fold_count(self) -> int:
        """How many folds there are."""
        return max(self.folds) + 1

    def only(self, fold: int) -> Calibration:
        """The batches of one fold, as folds of their own."""
        batches = [batch for batch, each in zip(self.batches, self.folds, strict=True) if each == fold]
        return replace(self, batches=batches, folds=_alternating(batches))

    @property
    def front(self) -> Calibration:
        """The first batches, which are enough wherever they give enough rows."""
        return self.first(FRONT_ELEMENTS)

    def first(self, elements: int) -> Calibration:
        """The first batches, at least one of each fold, with about as many `elements` of input."""
        sizes = np.cumsum([sum(array.size for array in batch.values()) for batch in self.batches])
        count = max(int((sizes <= elements).sum()), len(set(self.folds)))
        return replace(self, batches=self.batches[:count], folds=self.folds[:count])

    def spread(self, count: int) -> Calibration:
        """At most `count` batches, from everywhere."""
        taken = np.unique(np.linspace(0, len(self.batches) - 1, count).round().astype(int)).tolist()
        return replace(
            self, batches=[self.batches[each] for each in taken], folds=tuple(self.folds[each] for each in taken)
        )


def calibrate(
    model: Model, source: Source, options: SampleOptions, macs: int = 0, runtime: RunOptions = DEFAULTS
) -> Calibration:
    """Samples for `model` from `source`, in batches of two folds where there are enough.

    `source`: one of KINDS, made up; an .npz file or mapping with an array for each input, first axis = samples, as the
    model expects them; or a folder of images, resized to the model's input and normalised. Of what users give, those
    that `unseen` judges by are left out. `options.samples`: how many at most, rounded up to what one run of the model
    takes (None: of made-up ones `default_samples`, of a folder 512, else all). `macs`: of one forward pass. Models
    without convolutions get more various samples (`augmentation`), for which `runtime` says how they run. Raises
    UsageError where the source does not fit the model.
    """
    specs = input_specs(model)
    if is_made_up(source):
        return _made_up(model, specs, options, macs, runtime)
    offered = open_samples(specs, source, options, EXPECTED)
    given = offered.take(offered.divided(specs, _limit(source, options))[0])
    batches = _batches(specs, given.inputs)
    warnings = tuple(doubts(specs, given.inputs, options.normalisation))
    words = f"{counted(_count(specs, batches), 'sample')} of {given.source}"
    used = samples_used([given.inputs])
    if sees_rows(model, specs):
        (spec,) = specs
        halves = [given.inputs[spec.name][fold::FOLDS] for fold in range(FOLDS)]
        parts = [_batches(specs, {spec.name: topped_up(half, options.seed)}) for half in halves if len(half)]
        return Calibration(*_interleaved(parts), False, words, warnings, used)
    return Calibration(batches, _alternating(batches), False, words, warnings, used)


def unseen(model: Model, source: Source, options: SampleOptions, macs: int = 0, count: int | None = None) -> SampleSet:
    """Samples that `calibrate` leaves out, to judge results by: of the user's own the share that is held out; where
    they are too few for that, or made up, `count` further made-up ones (None: a quarter of `default_samples`), of
    pictures that `calibrate` does not use."""
    specs = input_specs(model)
    count = count or min(default_samples(model, specs, options, macs) // JUDGED_SHARE, MAX_BATCH)
    if is_made_up(source):
        return _further(model, specs, options, count)
    offered = open_samples(specs, source, options, EXPECTED)
    measured, judged = offered.divided(specs, _limit(source, options))
    if judged.size:
        held = offered.take(judged)
        return replace(held, source=f"held out of {offered.source}")
    if not is_folder(source) and options.normalisation is None:
        given = offered.take(measured).inputs
        options = replace(options, normalisation=normalisation_like(specs, given), shapes=sizes_of(specs, given))
    return _further(model, specs, replace(options, calibration=AUTO), count)


def _limit(source: Source, options: SampleOptions) -> int | None:
    """How many samples are measured on at most."""
    return options.samples or (MAX_IMAGES if is_folder(source) else None)


def is_made_up(source: object) -> bool:
    """Whether samples are to be made up."""
    return isinstance(source, str) and source in KINDS


def default_samples(model: Model, specs: Sequence[InputSpec], options: SampleOptions, macs: int) -> int:
    """How many samples are made up by default: as many as AFFORDED_MACS and AFFORDED_ELEMENTS allow, from 64 to 512,
    or 8192 without convolutions."""
    chosen = concrete_shapes(specs, 1, shapes=options.shapes)
    elements = sum(math.prod(shape[1:]) for shape in chosen.values())
    most = MAX_SAMPLES if convolves(model) else MAX_VECTORS
    afforded = min(AFFORDED_ELEMENTS // max(elements, 1), AFFORDED_MACS // max(macs, 1))
    return min(max(afforded, MIN_SAMPLES), most)


def _made_up(
    model: Model, specs: tuple[InputSpec, ...], options: SampleOptions, macs: int, runtime: RunOptions
) -> Calibration:
    options = replace(options, shapes=concrete_shapes(specs, 1, shapes=options.shapes))
    count = options.samples or default_samples(model, specs, options, macs)
    if sees_rows(model, specs) and specs[0].channel_axis is not None:
        batches = _batches(specs, {specs[0].name: varied_images(model, specs[0].name, count, options, runtime)})
        folds = _alternating(batches)
    else:
        halves = [(count + fold) // FOLDS for fold in range(FOLDS)]
        draws = [synthetic_inputs(model, half, options, fold) for fold, half in enumerate(halves) if half]
        batches, folds = _interleaved([_batches(specs, draw) for draw in draws])
    pictures = str(sum(len(available(each)) for each in FITTED))
    noun, origin = _kind(model, specs, options, pictures)
    words = f"{counted(count, noun)}{origin}, seed {options.seed}{stated(specs, options)}"
    return Calibration(batches, folds, True, words)


def _further(model: Model, specs: tuple[InputSpec, ...], options: SampleOptions, count: int) -> SampleSet:
    options = replace(options, shapes=concrete_shapes(specs, 1, shapes=options.shapes))
    inputs = synthetic_inputs(model, count, options, JUDGING)
    noun, origin = _kind(model, specs, options, f"{len(available(HELD_OUT))} other", JUDGING)
    words = f"{noun}s{origin}, seed {options.seed}"
    return SampleSet(inputs, None, words, understates=understatement(specs, options), made_up=True)


def understatement(specs: Sequence[InputSpec], options: SampleOptions) -> float:
    """How many times as much is lost on samples of the right kind as on made-up ones."""
    shapes = concrete_shapes(specs, 1, shapes=options.shapes)
    sides = [side for spec in specs if (side := spec.shortest_side(shapes[spec.name])) is not None]
    return OVERSTATED if min(sides, default=SMALLEST_NORMALISED) < SMALLEST_NORMALISED else UNDERSTATED


def _kind(
    model: Model, specs: Sequence[InputSpec], options: SampleOptions, pictures: str, draw: int = 0
) -> tuple[str, str]:
    """What a made-up sample is, in words, and what follows the noun; `pictures`: which, if it is made of some."""
    shapes = concrete_shapes(specs, 1, shapes=options.shapes)
    images = [spec for spec in specs if spec.channel_axis is not None]
    if any(kind_of_images(model, spec, shapes[spec.name], options, draw) == PHOTOS for spec in images):
        return "crop", f" of {pictures} photographs"
    return "synthetic sample", ""


def _alternating(batches: list[Batch]) -> tuple[int, ...]:
    """The fold of each batch, in turns."""
    return tuple(number % FOLDS for number in range(len(batches)))


def _interleaved(parts: list[list[Batch]]) -> tuple[list[Batch], tuple[int, ...]]:
    """The batches of several folds in turns, and the fold of each."""
    numbered = [[(batch, fold) for batch in part] for fold, part in enumerate(parts)]
    turns = [each for each in chain.from_iterable(zip_longest(*numbered)) if each is not None]
    return [batch for batch, _ in turns], tuple(fold for _, fold in turns)


def _count(specs: tuple[InputSpec, ...], batches: list[Batch]) -> int:
    first = next((spec.name for spec in specs if spec.shape), None)
    return sum(len(batch[first]) if first else 1 for batch in batches)


def _batches(specs: tuple[InputSpec, ...], arrays: Batch) -> list[Batch]:
    """Batches of the model's own size where that is fixed, else of at most about BATCH_ELEMENTS elements, and two where
    there are two samples.

    Each takes samples from everywhere, so that those that lie in order of their classes are mixed. Where the first axis
    of an input is fixed to another size, it gives that many rows to each run, all in order; a scalar is fed whole.
    """
    fixed = fixed_batch(specs)
    elements = sum(math.prod(arrays[spec.name].shape[1:]) for spec in specs)
    size = fixed or int(np.clip(BATCH_ELEMENTS // max(elements, 1), 1, MAX_BATCH))
    rows = {spec.name: spec.shape[0] or size for spec in specs if spec.shape}
    for name, count in rows.items():
        least = count if fixed else 1
        if len(arrays[name]) < least:
            raise UsageError(
                f"input {name!r} has {counted(len(arrays[name]), 'calibration sample')}, fewer than one run of the "
                f"model takes; give at least {least}"
            )
    total = min((len(arrays[name]) for name, count in rows.items() if count == size), default=size)
    runs = total // size if fixed else max(-(-total // size), min(total, FOLDS))
    runs = min([runs, *(len(arrays[name]) // count for name, count in rows.items() if count != size)])
    total = runs * size if fixed else total

    def part(name: str, run: int) -> np.ndarray:
        if name not in rows:
            return arrays[name]
        count = rows[name]
        return arrays[name][run:total:runs] if alike(specs) else arrays[name][run * count : (run + 1) * count]

    return [{spec.name: part(spec.name, run) for spec in specs} for run in range(runs)]
