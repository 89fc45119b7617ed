"""Photographs: crops of the pictures that scikit-image ships in its wheel, pasted into one another.

Networks for photographs answer to what photographs hold, which painted images do not. A dozen pictures go a long way
when every sample is another crop of another colour, with rectangles of further crops in it, because then its parts
differ as much as parts of different photographs do.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

FITTED = (
    ("astronaut.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "coins.png", "grass.png"),
    ("chelsea.png", "motorcycle_left.png", "retina.jpg", "clock_motion.png", "brick.png", "gravel.png"),
)
"""Pictures that activations are measured on, in two folds that share none."""
HELD_OUT = ("coffee.png", "camera.png")
"""Pictures that results are judged on."""
NONE_STATED, PUBLIC, CC0, UNRESTRICTED = "none stated", "public domain", "CC0", "no known copyright restrictions"
CREDITS = {
    "astronaut.png": ("astronaut (NASA)", PUBLIC),
    "rocket.jpg": ("rocket (SpaceX)", PUBLIC),
    "hubble_deep_field.jpg": ("hubble deep field (NASA)", PUBLIC),
    "clock_motion.png": ("clock", PUBLIC),
    "chelsea.png": ("chelsea", CC0),
    "retina.jpg": ("retina", CC0),
    "brick.png": ("brick", CC0),
    "grass.png": ("grass", CC0),
    "gravel.png": ("gravel", CC0),
    "coffee.png": ("coffee", CC0),
    "camera.png": ("camera", CC0),
    "ihc.png": ("immunohistochemistry", UNRESTRICTED),
    "coins.png": ("coins", UNRESTRICTED),
    "motorcycle_left.png": ("motorcycle (Middlebury stereo data 2014, Scharstein et al.)", NONE_STATED),
}
"""What each picture shows and whose it is, and its licence, as scikit-image states it."""
LARGEST = 512
"""Pictures are used at a size at which their shorter side is at most this long, or twice that of the samples."""
AREA = (0.1, 1.0)
ASPECT = (3 / 4, 4 / 3)
VARIATION = 0.3
"""By how much contrast, brightness and each colour vary."""
PERMUTED = 0.5
"""Share of crops whose channels change places."""
MOST_PASTED, PASTED_SIDE, PASTED_ASPECT = 3, (0.25, 0.7), (0.6, 1.6)
PAINTERS = 2


def photographs(
    samples: int,
    channels: int,
    height: int,
    width: int,
    pictures: tuple[str, ...],
    seed: int | list[int] = 0,
    pasted: float = 1.0,
) -> np.ndarray:
    """Crops of `pictures`, a share of `pasted` of them with one to three rectangles of other crops in it.

    Crops: area log-uniform in AREA, aspect in ASPECT of the samples', mirrored or not, contrast, brightness and single
    colours varied by up to VARIATION, channels permuted in half of them. `channels`: 1 or 3.

    Returns float32 of shape (samples, channels, height, width) in [0, 1]; the same for the same seed.
    """
    generators = np.random.default_rng(seed).spawn(samples)
    sources = [_picture(name, 2 * max(height, width, LARGEST // 2)) for name in pictures]

    def make(index: int) -> np.ndarray:
        rng = generators[index]
        image = _crop(sources[index % len(sources)], height, width, rng)
        for _ in range(rng.integers(1, MOST_PASTED + 1) if rng.random() < pasted else 0):
            tall = max(1, round(height * _log_uniform(rng, PASTED_SIDE)))
            wide = int(np.clip(tall * width / height * _log_uniform(rng, PASTED_ASPECT), 1, width))
            top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
            other = sources[rng.integers(len(sources))]
            image[:, top : top + tall, left : left + wide] = _crop(other, tall, wide, rng)
        return image if channels == 3 else image.mean(axis=0, keepdims=True)

    with ThreadPoolExecutor(PAINTERS) as painters:
        return np.stack(list(painters.map(make, range(samples))))


def credited(pictures: tuple[str, ...]) -> dict[str, list[str]]:
    """What `pictures` show and whose they are, by licence."""
    found: dict[str, list[str]] = {}
    for shown, licence in map(CREDITS.__getitem__, pictures):
        found.setdefault(licence, []).append(shown)
    return found


def available(pictures: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `pictures` that the installed scikit-image brings along."""
    return tuple(name for name in pictures if (_folder() / name).is_file())


def _folder() -> Path:
    found = find_spec("skimage")
    return Path(found.origin).parent / "data" if found is not None and found.origin else Path("skimage")


@lru_cache(maxsize=64)
def _picture(name: str, shortest: int) -> Image.Image:
    """A picture in RGB, made smaller where its shorter side is longer than `shortest`."""
    image = Image.open(_folder() / name).convert("RGB")
    factor = shortest / min(image.size)
    if factor >= 1:
        return image
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BOX)


def _crop(picture: Image.Image, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One crop in other colours, float32 (3, height, width) in [0, 1]."""
    area = _log_uniform(rng, AREA) * picture.width * picture.height
    aspect = _log_uniform(rng, ASPECT) * width / height
    wide = int(np.clip((area * aspect) ** 0.5, 1, picture.width))
    tall = int(np.clip((area / aspect) ** 0.5, 1, picture.height))
    left, top = rng.integers(0, picture.width - wide + 1), rng.integers(0, picture.height - tall + 1)
    box = (int(left), int(top), int(left) + wide, int(top) + tall)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    crop = np.asarray(resized, np.float32) / 255
    crop = (crop[:, ::-1] if rng.random() < 0.5 else crop).transpose(2, 0, 1)
    if rng.random() < PERMUTED:
        crop = crop[rng.permutation(3)]
    mean = crop.mean()
    contrast, brightness, *colours = rng.uniform(1 - VARIATION, 1 + VARIATION, 5)
    varied = ((crop - mean) * contrast + mean) * brightness * np.array(colours).reshape(3, 1, 1)
    return np.clip(varied, 0, 1).astype(np.float32)


def _log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    low, high = np.log(ends)
    return float(np.exp(rng.uniform(low, high)))
