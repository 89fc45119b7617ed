"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from ..errors import UsageError
from ..options import Normalisation

Provider = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="onnxruntime's execution provider.")]
Mean = Annotated[
    str | None, typer.Option(metavar="M,..", help="Means of pixels in [0, 1] that images are normalised by.")
]
Std = Annotated[str | None, typer.Option(metavar="S,..", help="Deviations to these means.")]
InputRange = Annotated[
    str | None, typer.Option(metavar="LOW,HIGH", help="Range of image values, in place of --mean and --std.")
]
Shape = Annotated[
    list[str] | None, typer.Option(metavar="NAME:1x3x224x224", help="Size of an input with dynamic axes.")
]
Seed = Annotated[int, typer.Option(help="Seed of synthetic inputs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Library = Annotated[
    str | None,
    typer.Option("--custom-ops-library", metavar="PATH", help="Shared library of operators to register."),
]


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
