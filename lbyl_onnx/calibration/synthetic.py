"""Inputs made up from what a model declares: crops of photographs, dead leaves, token ids, masks, noise."""

from __future__ import annotations

import math

import numpy as np

from ..errors import UsageError
from ..model.model import Model
from ..model.nodes import attribute
from ..options import SampleOptions
from .dead_leaves import dead_leaves
from .inputs import InputSpec, concrete_shapes, fixed_batch, input_specs, means
from .normalisation import as_input
from .photographs import FITTED, HELD_OUT, available, photographs

DEFAULTS = SampleOptions()
AUTO, PHOTOS, LEAVES, NOISE = "auto", "photos", "leaves", "noise"
KINDS = (AUTO, PHOTOS, LEAVES, NOISE)
"""Kinds of made-up images; `auto`: photographs where the model convolves images of one or three channels."""
SMALLEST_PHOTOGRAPH = 16
"""Pixels of a side below which little is left of a photograph."""
SMALLEST_NORMALISED = 64
"""The same for samples to measure on where BatchNormalization makes up for what painted images lack."""
DRAWS = (*FITTED, HELD_OUT)
"""Independent draws of made-up samples: of other pictures each, and of other seeds."""
JUDGING = len(DRAWS) - 1
"""The draw that results are judged on."""
JUDGED_PASTED = 0.5
"""Share of the crops for judging that have others in them: plain ones alone say too little of some networks."""
UNKNOWN_VOCABULARY = 10
PAINTED = 1024
"""Images that are painted at most for a model without convolutions; further ones differ in their noise."""


def synthetic_inputs(
    model: Model, samples: int, options: SampleOptions = DEFAULTS, draw: int = 0
) -> dict[str, np.ndarray]:
    """Arrays for every input of `model`, each of the input's dtype; the same for the same seed of `options`.

    First axis = samples, whatever the model's own batch size: feed them in slices of that size, as
    `session.feed_batches` does. Where a batch axis is fixed to B > 1 their number is rounded up to whole
    batches; an input whose first axis is fixed to another size gets that many rows for each run, a scalar
    none. `draw`: which of the DRAWS.

    - images, of the kind that `kind_of_images` says: `photographs`, `dead_leaves` or uniform noise, normalised, of an
      integer type 0 to 255, of int8 -128 to 127; dead leaves for a model without convolutions, for which no pixel has
      neighbours, each have a share of their own, from none to all, of their pixels replaced by noise
    - names with "mask", and booleans: ones
    - integers: names with "position" count up along the last axis, with "token_type" or "segment" are zero,
      others are uniform token ids below the size of the embedding that the input selects from, or below 10
    - other floats: standard normal

    Raises UsageError for shapes that do not fit, ModelError for inputs that are no tensors.
    """
    specs = input_specs(model)
    filled = concrete_shapes(specs, samples, shapes=options.shapes)
    batch = fixed_batch(specs)
    runs = math.ceil(samples / batch) if batch else 1
    inputs = {}
    for index, spec in enumerate(specs):
        shape = filled[spec.name]
        if shape:
            shape = (runs * (spec.shape[0] or batch) if batch else samples, *shape[1:])
        seed = [options.seed, index, draw]
        inputs[spec.name] = _values(spec, shape, seed, model, options).astype(spec.dtype, copy=False)
    return inputs


def kind_of_images(model: Model, spec: InputSpec, shape: tuple[int, ...], options: SampleOptions, draw: int = 0) -> str:
    """What an input of images of this `shape` gets: "photos", "leaves" or "noise". Raises UsageError where photographs
    are asked for by name and do not fit."""
    channels, side = shape[spec.channel_axis or 1], spec.shortest_side(shape) or 0
    fits = channels in (1, 3) and all(len(available(pictures)) > 1 for pictures in DRAWS)
    if options.calibration == PHOTOS and not fits:
        raise UsageError(
            f"photos: input {spec.name!r} has {channels} channels, and photographs are for 1 or 3, where scikit-image "
            "brings its pictures along; choose leaves, noise or own samples",
            "calibration",
        )
    if options.calibration in (PHOTOS, LEAVES, NOISE):
        return options.calibration
    normalised = any(node.op_type == "BatchNormalization" for node in model.proto.graph.node)
    smallest = SMALLEST_NORMALISED if normalised and draw != JUDGING else SMALLEST_PHOTOGRAPH
    return PHOTOS if fits and side >= smallest and convolves(model) else LEAVES


def _values(
    spec: InputSpec, shape: tuple[int, ...], seed: list[int], model: Model, options: SampleOptions
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if spec.dtype.kind == "b" or means(spec.name, "mask"):
        return np.ones(shape)
    if spec.channel_axis is not None:
        return as_input(_images(spec, shape, seed, model, options), spec, options.normalisation)
    if spec.dtype.kind not in "iu":
        return rng.standard_normal(shape, np.float32)
    if means(spec.name, "position") and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    if means(spec.name, "token_type", "segment"):
        return np.zeros(shape)
    return rng.integers(0, _vocabulary(model, spec.name), shape)


def _vocabulary(model: Model, name: str) -> int:
    """Rows of the smallest constant that a Gather selects from by this input, also through Casts."""
    nodes = model.proto.graph.node
    aliases = {name}
    for node in nodes:
        if node.op_type == "Cast" and node.input[0] in aliases:
            aliases.add(node.output[0])
    sizes = [
        model.weights[node.input[0]].shape[attribute(node, "axis", 0)]
        for node in nodes
        if node.op_type == "Gather" and node.input[1] in aliases and node.input[0] in model.weights
    ]
    return min(sizes, default=UNKNOWN_VOCABULARY)


def convolves(model: Model) -> bool:
    """Whether the model has a convolution, and so sees many positions of each sample."""
    return any(node.op_type == "Conv" for node in model.proto.graph.node)


def _images(
    spec: InputSpec, shape: tuple[int, ...], seed: list[int], model: Model, options: SampleOptions
) -> np.ndarray:
    """Images (samples, channels, height, width) in [0, 1]."""
    last = spec.channel_axis == 3
    samples, channels, height, width = (shape[0], shape[3], *shape[1:3]) if last else shape
    rng = np.random.default_rng(seed)
    draw = seed[-1]
    kind = kind_of_images(model, spec, shape, options, draw)
    if kind == PHOTOS:
        pasted = JUDGED_PASTED if draw == JUDGING else 1.0
        return photographs(samples, channels, height, width, available(DRAWS[draw]), seed, pasted)
    if kind == NOISE:
        return rng.random((samples, channels, height, width), np.float32)
    if convolves(model):
        return dead_leaves(samples, channels, height, width, rng)
    images = dead_leaves(min(samples, PAINTED), channels, height, width, rng)[np.arange(samples) % PAINTED]
    share = rng.random((samples, 1, 1, 1))
    return np.where(rng.random(images.shape) < share, rng.random(images.shape, np.float32), images)
