"""From pixels in [0, 1] to what an input of a model takes: normalisation, types, order of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UsageError, counted
from ..options import Normalisation, SampleOptions
from .inputs import InputSpec, concrete_shapes

BRIGHTNESS, CONTRAST = 0.46, 0.25
"""Mean and deviation of the pixels of photographs, in [0, 1]."""
LEAST_SPREAD = 1e-6
"""Deviation that a channel is taken to have at least, relative to its mean."""


def normalised(images: np.ndarray, normalisation: Normalisation | None) -> np.ndarray:
    """`images`, float32 of shape (N, C, H, W) in [0, 1], normalised in place (None: the default of C). UsageError where
    neither one value nor C are given."""
    channels = images.shape[1]
    chosen = normalisation or Normalisation.default(channels)
    if len(chosen.mean) not in (1, channels):
        raise UsageError(
            f"{len(chosen.mean)} means and deviations for images of {counted(channels, 'channel')}; give one for "
            "each channel, or one for all"
        )
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (chosen.mean, chosen.std))
    images -= mean
    images /= std
    return images


def as_input(images: np.ndarray, spec: InputSpec, normalisation: Normalisation | None = None) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] as the input takes them, of its type and order of axes: under `normalisation`
    (default: `Normalisation.default`), or for integers 0 to 255, for int8 -128 to 127. May overwrite `images`."""
    if spec.dtype.kind in "iu":
        images = np.round(images * 255) - (128 if spec.dtype == np.int8 else 0)
    else:
        images = normalised(images, normalisation)
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


def normalisation_like(specs: Sequence[InputSpec], arrays: Mapping[str, np.ndarray]) -> Normalisation | None:
    """A normalisation by which photographs get the means and deviations of the first given images, of each channel or,
    where inputs differ in their channels, of all; None without images."""
    images = [(arrays[each.name], each.channel_axis) for each in specs if each.channel_axis and each.dtype.kind == "f"]
    if not images:
        return None
    array, axis = images[0]
    alike = len({each.shape[place] for each, place in images}) == 1
    channels = np.moveaxis(array, axis, 0).reshape(array.shape[axis] if alike else 1, -1)
    centre, spread = channels.mean(axis=1, dtype=np.float64), channels.std(axis=1, dtype=np.float64)
    std = CONTRAST / np.maximum(spread, LEAST_SPREAD * np.abs(centre) + np.finfo(np.float32).tiny)
    return Normalisation(tuple((BRIGHTNESS - std * centre).tolist()), tuple(std.tolist()))


def stated(specs: Sequence[InputSpec], options: SampleOptions) -> str:
    """What was assumed of made-up or resized samples: sizes of dynamic inputs and scaling of images."""
    chosen = concrete_shapes(specs, 1, shapes=options.shapes)
    sizes = [f"{spec.name} {'x'.join(map(str, chosen[spec.name][1:]))}" for spec in specs if None in spec.shape[1:]]
    words = (*sizes, scaling(specs, chosen, options.normalisation))
    return "".join(f", {word}" for word in words if word)
