"""Inputs made up from what a model declares: dead-leaves images, token ids, masks, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from ..errors import ModelError, UsageError
from ..model.file import Model

SEQUENCE_LENGTH = 16
VOLUME_SIZE = 32
UNKNOWN_VOCABULARY = 10

PAINTED_TOGETHER, PIXELS_TOGETHER = 64, 2**20
PAINTERS = 2
"""Threads that paint: numpy lets go of the interpreter for about half of their time."""
SMALL = 112
LEAVES_PER_SQUARE, MOST_SQUARES = 120, 16
"""Leaves for each square of an elongated image, and the number of squares from which they grow no more."""
COLOUR_CORRELATION = 0.89
SCENE_SHARE = 0.25
SHADING = 0.2
NOISE = 0.04
PAINTED = 1024
"""Images that are painted at most for a model without convolutions; further ones differ in their noise."""
BRIGHTNESS = 0.46
CONTRAST = 0.25


@dataclass(frozen=True)
class InputSpec:
    """One input of a model. `shape`: sizes of its axes, None where dynamic."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]

    @property
    def channel_axis(self) -> int | None:
        """The channel axis where the input looks like images (N,C,H,W or N,H,W,C; H and W at least 4)."""
        if len(self.shape) != 4 or self.dtype.kind == "b" or _means(self.name, "mask"):
            return None
        last = self.shape[3] in (1, 3, 4) and self.shape[1] not in (1, 3, 4)
        spatial = self.shape[1:3] if last else self.shape[2:]
        return (3 if last else 1) if all(size is None or size >= 4 for size in spatial) else None


@dataclass(frozen=True)
class Normalisation:
    """What a model's training subtracted from and divided pixel values in [0, 1] by, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def default(cls, channels: int) -> Normalisation:
        """ImageNet's for three channels, 0.5 and 0.5 for another number."""
        if channels == 3:
            return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return cls((0.5,) * channels, (0.5,) * channels)

    def __str__(self) -> str:
        mean, std = (",".join(f"{value + 0:.3g}" for value in values) for values in (self.mean, self.std))
        words = f"normalised by mean {mean}, std {std}"
        if len(self.mean) > 1:
            return words
        low, high = (f"{(end - self.mean[0]) / self.std[0] + 0:.3g}" for end in (0, 1))
        return f"{words} ({low} to {high})"

    def apply(self, images: np.ndarray) -> np.ndarray:
        """`images`, float32 of shape (N, C, H, W) in [0, 1], normalised in place. UsageError where neither one value
        nor C are given."""
        if len(self.mean) not in (1, images.shape[1]):
            raise UsageError(
                f"{len(self.mean)} means and deviations for images of {images.shape[1]} channels; give one for each "
                "channel, or one for all"
            )
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        images -= mean
        images /= std
        return images


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """The inputs a caller has to feed: those of the graph that are not initializers, in its order.

    Raises ModelError for an input that is no tensor of numbers or declares no rank.
    """
    graph = model.proto.graph
    constants = {initializer.name for initializer in graph.initializer}
    constants |= {initializer.values.name for initializer in graph.sparse_initializer}
    return tuple(_spec(value) for value in graph.input if value.name not in constants)


def _spec(value: ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        found = (kind or "undeclared").removesuffix("_type")
        raise ModelError(f"input {value.name!r} is of type {found}; only tensor inputs are supported")
    tensor = value.type.tensor_type
    if tensor.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        found = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ModelError(f"input {value.name!r} has elements of type {found}; only numbers are supported")
    if not tensor.HasField("shape"):
        raise ModelError(f"input {value.name!r} declares no rank; export the model with input shapes")
    shape = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim)
    return InputSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def concrete_shapes(
    specs: Sequence[InputSpec],
    batch: int,
    size: int = 224,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """A shape for each input with every dynamic axis filled in.

    Dynamic axes become: the first `batch`; height and width of images `size`, their channels 3; the second
    axis of anything else 16; the third of (N, C, L) signals `size`; further ones 32. `shapes` overrides whole
    inputs but for the first axis; UsageError where it names no input or contradicts a static axis.
    """
    given = dict(shapes or {})
    names = [spec.name for spec in specs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(f"shape given for {unknown[0]!r}, which is no input; the model's inputs are {names}")
    return {
        spec.name: _checked(spec, tuple(given[spec.name]), batch)
        if spec.name in given
        else tuple(
            length if length is not None else _default_length(spec, axis, batch, size)
            for axis, length in enumerate(spec.shape)
        )
        for spec in specs
    }


def samples_within(elements: int, shapes: Mapping[str, tuple[int, ...]], least: int, most: int) -> int:
    """How many samples of inputs of these `shapes` hold so many `elements`, from `least` to `most`."""
    each = sum(math.prod(shape[1:]) for shape in shapes.values())
    return min(max(elements // max(each, 1), least), most)


def _default_length(spec: InputSpec, axis: int, batch: int, size: int) -> int:
    if axis == 0:
        return batch
    if spec.channel_axis is not None:
        return 3 if axis == spec.channel_axis else size
    if axis == 1:
        return SEQUENCE_LENGTH
    return size if len(spec.shape) == 3 else VOLUME_SIZE


def _checked(spec: InputSpec, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    fits = len(shape) == len(spec.shape) and all(
        found > 0 and expected in (None, found) for found, expected in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"shape {shape} does not fit input {spec.name!r}, which is {format_shape(spec.shape)}; "
            "give one positive size for each axis and keep the static ones"
        )
    return (batch, *shape[1:]) if spec.shape[:1] == (None,) else shape


def format_shape(shape: Sequence[int | None]) -> str:
    """A shape for messages, dynamic axes as "?": (?, 3, 224, 224)."""
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"


def synthetic_inputs(
    model: Model,
    samples: int,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
) -> dict[str, np.ndarray]:
    """Arrays for every input of `model`, each of the input's dtype; the same for the same seed.

    First axis = samples, whatever the model's own batch size: feed them in slices of that size, as
    `runtime.feed_batches` does. Where a batch axis is fixed to B > 1 their number is rounded up to whole
    batches; an input whose first axis is fixed to another size gets that many rows for each run, a scalar
    none. `shapes` overrides dynamic axes but the first.

    - images: `dead_leaves`, under `normalisation` (default: `Normalisation.default`), of an integer type 0 to 255, of
      int8 -128 to 127; in a model without convolutions, for which no pixel has neighbours, each image has a share of
      its own, from none to all, of its pixels replaced by noise
    - names with "mask", and booleans: ones
    - integers: names with "position" count up along the last axis, with "token_type" or "segment" are zero,
      others are uniform token ids below the size of the embedding that the input selects from, or below 10
    - other floats: standard normal

    Raises UsageError for shapes that do not fit, ModelError for inputs that are no tensors.
    """
    specs = input_specs(model)
    filled = concrete_shapes(specs, samples, shapes=shapes)
    batch = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    runs = math.ceil(samples / batch) if batch else 1
    inputs = {}
    for index, spec in enumerate(specs):
        shape = filled[spec.name]
        if shape:
            shape = (runs * (spec.shape[0] or batch) if batch else samples, *shape[1:])
        rng = np.random.default_rng([seed, index])
        inputs[spec.name] = _values(spec, shape, rng, model, normalisation).astype(spec.dtype, copy=False)
    return inputs


def _values(
    spec: InputSpec,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    model: Model,
    normalisation: Normalisation | None,
) -> np.ndarray:
    if spec.dtype.kind == "b" or _means(spec.name, "mask"):
        return np.ones(shape)
    if spec.channel_axis is not None:
        return _image_values(spec, shape, rng, normalisation, noisy=not convolves(model))
    if spec.dtype.kind not in "iu":
        return rng.standard_normal(shape, np.float32)
    if _means(spec.name, "position") and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    if _means(spec.name, "token_type", "segment"):
        return np.zeros(shape)
    return rng.integers(0, _vocabulary(model, spec.name), shape)


def _means(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)


def _vocabulary(model: Model, name: str) -> int:
    """Rows of the smallest constant that a Gather selects from by this input, also through Casts."""
    nodes = model.proto.graph.node
    aliases = {name}
    for node in nodes:
        if node.op_type == "Cast" and node.input[0] in aliases:
            aliases.add(node.output[0])
    sizes = [
        model.weights[node.input[0]].shape[_axis(node)]
        for node in nodes
        if node.op_type == "Gather" and node.input[1] in aliases and node.input[0] in model.weights
    ]
    return min(sizes, default=UNKNOWN_VOCABULARY)


def convolves(model: Model) -> bool:
    """Whether the model has a convolution, and so sees many positions of each sample."""
    return any(node.op_type == "Conv" for node in model.proto.graph.node)


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


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


def as_input(images: np.ndarray, spec: InputSpec, normalisation: Normalisation | None = None) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] as the input takes them, of its type and order of axes: under `normalisation`
    (default: `Normalisation.default`), or for integers 0 to 255, for int8 -128 to 127. May overwrite `images`."""
    if spec.dtype.kind in "iu":
        images = np.round(images * 255) - (128 if spec.dtype == np.int8 else 0)
    else:
        images = (normalisation or Normalisation.default(images.shape[1])).apply(images)
    return (np.moveaxis(images, 1, 3) if spec.channel_axis == 3 else images).astype(spec.dtype, copy=False)


def scaling(
    specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], normalisation: Normalisation | None
) -> str:
    """How `as_input` scales the images among inputs of these `shapes`, in words; empty where there are none."""
    found = set()
    for spec in specs:
        if spec.channel_axis is not None and spec.dtype.kind in "iu":
            found.add("values -128 to 127" if spec.dtype == np.int8 else "values 0 to 255")
        elif spec.channel_axis is not None:
            found.add(str(normalisation or Normalisation.default(shapes[spec.name][spec.channel_axis])))
    return " or ".join(sorted(found))


def dead_leaves(
    samples: int, channels: int, height: int, width: int, seed: int | np.random.Generator = 0
) -> np.ndarray:
    """Images with the statistics of photographs: opaque ellipses and rectangles that cover one another.

    Radii follow p(r) ~ r^-3, so that the images look alike at all scales as natural scenes do. Leaves have
    linear shading, the images some noise, and small images soft edges; colours correlate by about 0.88
    between channels, and whole images differ in colour more than the leaves alone would make them.

    Returns float32 of shape (samples, channels, height, width) in [0, 1]; the same for the same seed.
    Source: Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 41, 2001.
    """
    zoom = 2 if min(height, width) < SMALL else 1
    together = max(1, min(PAINTED_TOGETHER, PIXELS_TOGETHER // (height * width * zoom**2)))
    images = np.empty((samples, channels, height, width), np.float32)
    parts = [images[start : start + together] for start in range(0, samples, together)]

    def fill(part: np.ndarray, rng: np.random.Generator) -> None:
        fine = _paint(rng, len(part), channels, height * zoom, width * zoom)
        part[:] = fine if zoom == 1 else fine.reshape(*part.shape[:3], zoom, width, zoom).mean((3, 5))

    with ThreadPoolExecutor(PAINTERS) as painters:
        list(painters.map(fill, parts, np.random.default_rng(seed).spawn(len(parts))))
    return images


def _paint(rng: np.random.Generator, samples: int, channels: int, height: int, width: int) -> np.ndarray:
    side = min(height, width)
    smallest, largest = max(4.0, side / 28), max(5.0, side / 2)
    quantiles = rng.random(LEAVES_PER_SQUARE * min(max(height, width), MOST_SQUARES * side) // side)
    radii = (smallest**-2 - quantiles * (smallest**-2 - largest**-2)) ** -0.5
    scene = _colours(rng, samples, channels)
    canvas = np.repeat(scene, height * width, axis=0)
    for radius in radii:
        colours = np.sqrt(SCENE_SHARE) * scene + np.sqrt(1 - SCENE_SHARE) * _colours(rng, samples, channels)
        image, pixels, shading = _leaf(rng, samples, height, width, radius)
        canvas[pixels] = colours[image] + shading[:, None]
    noise = rng.standard_normal(canvas.shape, np.float32)
    noise *= NOISE
    canvas += noise
    canvas *= CONTRAST
    canvas += BRIGHTNESS
    np.clip(canvas, 0, 1, out=canvas)
    return canvas.reshape(samples, height, width, channels).transpose(0, 3, 1, 2)


def _colours(rng: np.random.Generator, samples: int, channels: int) -> np.ndarray:
    """Standard normal, (samples, channels), with COLOUR_CORRELATION between the channels; float32."""
    common = rng.standard_normal((samples, 1), np.float32)
    own = rng.standard_normal((samples, channels), np.float32)
    return np.sqrt(COLOUR_CORRELATION) * common + np.sqrt(1 - COLOUR_CORRELATION) * own


def _leaf(
    rng: np.random.Generator, samples: int, height: int, width: int, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One leaf for each image, within `radius` of a random centre: the images and flat indices in (samples, height,
    width) of the pixels that it covers, and its shading there."""
    reach = np.arange(-math.ceil(radius), math.ceil(radius) + 1)
    centre = rng.random((2, samples, 1)) * np.array([height, width]).reshape(2, 1, 1)
    rows, columns = np.floor(centre).astype(np.int64) + reach
    down = (rows + 0.5 - centre[0]).astype(np.float32)[:, :, None]
    right = (columns + 0.5 - centre[1]).astype(np.float32)[:, None, :]
    angle = rng.uniform(0, np.pi, (samples, 1, 1)).astype(np.float32)
    half = (radius * rng.uniform(0.5, 1, (2, samples, 1, 1))).astype(np.float32)
    along = (np.cos(angle) * right + np.sin(angle) * down) / half[0]
    across = (np.cos(angle) * down - np.sin(angle) * right) / half[1]
    ellipse = along**2 + across**2 <= 1
    rectangle = np.maximum(np.abs(along), np.abs(across)) <= np.sqrt(0.5)
    covered = np.where(rng.random((samples, 1, 1)) < 0.5, ellipse, rectangle)
    covered &= ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    image, row, column = np.nonzero(covered)
    slope = SHADING * rng.standard_normal(samples, np.float32)
    pixels = (image * height + rows[image, row]) * width + columns[image, column]
    return image, pixels, slope[image] * along[image, row, column]
