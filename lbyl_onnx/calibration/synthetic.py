"""Inputs made up from what a model declares: images, token ids, masks, noise."""

from __future__ import annotations

import math

import numpy as np

from ..model.model import Model
from ..model.nodes import attribute
from ..options import Normalisation, SampleOptions
from .dead_leaves import dead_leaves
from .inputs import InputSpec, concrete_shapes, input_specs, means
from .normalisation import as_input

DEFAULTS = SampleOptions()
UNKNOWN_VOCABULARY = 10
PAINTED = 1024
"""Images that are painted at most for a model without convolutions; further ones differ in their noise."""


def synthetic_inputs(model: Model, samples: int, options: SampleOptions = DEFAULTS) -> dict[str, np.ndarray]:
    """Arrays for every input of `model`, each of the input's dtype; the same for the same seed of `options`.

    First axis = samples, whatever the model's own batch size: feed them in slices of that size, as
    `session.feed_batches` does. Where a batch axis is fixed to B > 1 their number is rounded up to whole
    batches; an input whose first axis is fixed to another size gets that many rows for each run, a scalar
    none.

    - images: `dead_leaves`, normalised, of an integer type 0 to 255, of int8 -128 to 127; in a model without
      convolutions, for which no pixel has neighbours, each image has a share of its own, from none to all, of its
      pixels replaced by noise
    - names with "mask", and booleans: ones
    - integers: names with "position" count up along the last axis, with "token_type" or "segment" are zero,
      others are uniform token ids below the size of the embedding that the input selects from, or below 10
    - other floats: standard normal

    Raises UsageError for shapes that do not fit, ModelError for inputs that are no tensors.
    """
    specs = input_specs(model)
    filled = concrete_shapes(specs, samples, shapes=options.shapes)
    batch = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    runs = math.ceil(samples / batch) if batch else 1
    inputs = {}
    for index, spec in enumerate(specs):
        shape = filled[spec.name]
        if shape:
            shape = (runs * (spec.shape[0] or batch) if batch else samples, *shape[1:])
        rng = np.random.default_rng([options.seed, index])
        inputs[spec.name] = _values(spec, shape, rng, model, options.normalisation).astype(spec.dtype, copy=False)
    return inputs


def _values(
    spec: InputSpec,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    model: Model,
    normalisation: Normalisation | None,
) -> np.ndarray:
    if spec.dtype.kind == "b" or means(spec.name, "mask"):
        return np.ones(shape)
    if spec.channel_axis is not None:
        return _image_values(spec, shape, rng, normalisation, noisy=not convolves(model))
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


def _image_values(
    spec: InputSpec,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    normalisation: Normalisation | None,
    noisy: bool,
) -> np.ndarray:
    last = spec.channel_axis == 3
    samples, channels, height, width = (shape[0], shape[3], *shape[1:3]) if last else shape
    images = dead_leaves(min(samples, PAINTED) if noisy else samples, channels, height, width, rng)
    if noisy:
        images = images[np.arange(samples) % len(images)]
        share = rng.random((samples, 1, 1, 1))
        images = np.where(rng.random(images.shape) < share, rng.random(images.shape, np.float32), images)
    return as_input(images, spec, normalisation)
