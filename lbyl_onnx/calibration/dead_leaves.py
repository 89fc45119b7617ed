"""Dead leaves: made-up images with the edge and scale statistics of photographs."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .normalisation import BRIGHTNESS, CONTRAST

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
