"""The arguments and options of the commands, shared ones first, and how their texts become values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..options import ALLOCATIONS, AUTO_RATIO, Normalisation
from ..restoration import RESTORATIONS
from ..selection import CRITERIA
from .config import NUMBER_OR_AUTO
from .logs import log_to_stderr

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
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output, and no tables.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=log_to_stderr, help="Log stages, samples, choices and times on stderr."),
]
Library = Annotated[
    str | None,
    typer.Option("--custom-ops-library", metavar="PATH", help="Shared library of operators to register."),
]

Source = Annotated[
    Path, typer.Argument(readable=False, metavar="IN", help="The model, an .onnx file, or - for standard input.")
]
Target = Annotated[
    Path,
    typer.Argument(readable=False, metavar="OUT", help="Where the compressed model goes, or - for standard output."),
]
Ratio = Annotated[
    float | None,
    typer.Option(help="Save the work that this share of all units takes, in [0, 1), where the outputs lose least."),
]
RatioOrAuto = Annotated[
    str | None,
    typer.Option(
        "--ratio",
        metavar="R|auto",
        help="Save the work that this share of all units takes, in [0, 1), where the outputs lose least; auto, with "
        "--allocation global: all units below a gap in the criterion.",
    ),
    NUMBER_OR_AUTO,
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME=VALUE",
        help="What the result may cost: macs=0.8, params=0.7, bytes=4MB, latency=0.75 or latency=5ms, drop=1% (points "
        "of accuracy); all of several hold. Default without --ratio: drop=1%.",
    ),
]
Allocation = Annotated[
    str,
    typer.Option(
        metavar="|".join(ALLOCATIONS),
        help="Who loses how much: by sensitivity of the outputs, all the same share (auto: where --criterion is not "
        "obs), or by one threshold for all.",
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", readable=False, metavar="PATH.json", help="Carry out what plan --out wrote, edited or not."),
]
PlanTarget = Annotated[
    Path | None,
    typer.Option("--out", readable=False, metavar="PATH.json", help="Write the plan here (-: standard output)."),
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="onnxruntime's threads; default: its choice.")]
Restore = Annotated[str, typer.Option(metavar="|".join(RESTORATIONS), help="How to make up for them.")]
Criterion = Annotated[str, typer.Option(metavar="|".join(CRITERIA), help="Which units go first.")]
Lambda1 = Annotated[float, typer.Option(help="lbyl: weight of the shift's error.")]
Lambda2 = Annotated[float, typer.Option(help="lbyl: weight of the solution's size.")]
Scope = Annotated[
    str, typer.Option(metavar="chains|all", help="chains: leave units of residual sums and Concat alone.")
]
RoundTo = Annotated[
    str,
    typer.Option(metavar="auto|N", help="Keep a multiple of N units; auto: what the provider's kernels want."),
    NUMBER_OR_AUTO,
]
Include = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Only groups with a producer whose node name matches.")
]
Exclude = Annotated[str | None, typer.Option(metavar="REGEX", help="No group with a producer whose node name matches.")]
CalibrationData = Annotated[
    str,
    typer.Option(
        metavar="auto|photos|leaves|noise|PATH",
        help="Samples to measure on: made up (auto: crops of photographs for images), an .npz, a folder of images.",
    ),
]
CalibrationSamples = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="How many samples; default: 64 to 512 made up, by what they cost (8192 without convolutions), 512 "
        "images, all of an .npz.",
    ),
]
CompressionSeed = Annotated[int, typer.Option(help="Seed of synthetic inputs and of --criterion random.")]
Evaluation = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="PATH",
        help="Labelled samples to compare on, which give accuracies: an .npz with labels, or a folder of images in "
        "one sub-folder for each class.",
    ),
]
MinAgreement = Annotated[
    float | None, typer.Option(metavar="P", help="Fail where less than P per cent of top-1 answers agree.")
]
MinSqnr = Annotated[
    float | None, typer.Option(metavar="DB", help="Fail where an output keeps less signal over error, in decibels.")
]
MaxDrop = Annotated[
    float | None, typer.Option(metavar="POINTS", help="Fail where accuracy on --eval falls by more points.")
]
MaxDataDrop = Annotated[
    float | None,
    typer.Option("--max-drop", metavar="POINTS", help="Fail where accuracy on --data falls by more points."),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH.html|PATH.json",
        help="Write a page to read (.html), or a full record (-: standard output), with layers' errors.",
    ),
]
PlotFolder = Annotated[
    Path | None, typer.Option("--plot", metavar="DIR", help="Write the page's pictures here, as SVG and PNG files.")
]
Recorded = Annotated[
    Path, typer.Argument(readable=False, metavar="RUN.json", help="What compress --report wrote as JSON.")
]
Page = Annotated[Path, typer.Argument(readable=False, metavar="OUT.html", help="Where the page goes.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT, the report and pictures, even where OUT is IN.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")]
NoValidate = Annotated[bool, typer.Option("--no-validate", help="Do not run the result against the original.")]

Inspected = Annotated[Path, typer.Argument(readable=False, metavar="MODEL", help="An .onnx file, or -.")]

Original = Annotated[Path, typer.Argument(readable=False, metavar="A", help="The original, an .onnx file.")]
Compressed = Annotated[Path, typer.Argument(readable=False, metavar="B", help="The model to compare with it.")]
Data = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        metavar="PATH",
        help="An .npz of arrays named after the inputs, first axis = samples, and labels; or a folder of images.",
    ),
]
ComparisonSamples = Annotated[
    int | None,
    typer.Option(metavar="N", help="How many samples; default: all of an .npz, 512 images, 16 to 128 made up."),
]

CertifiedOriginal = Annotated[
    Path | None, typer.Argument(readable=False, metavar="A", help="The original, an .onnx file.")
]
CertifiedResult = Annotated[
    Path | None, typer.Argument(readable=False, metavar="B", help="The compressed model; neither with --plan.")
]
Confidence = Annotated[
    float, typer.Option(metavar="P", help="Probability with which all statements hold together, 0.5 to below 1.")
]
RunReport = Annotated[
    Path | None,
    typer.Option(
        "--run", readable=False, metavar="PATH.json", help="What compress --report wrote: samples that it used."
    ),
]
MadeUpSamples = Annotated[
    int | None,
    typer.Option(metavar="N", help="How many samples at most; without --data made-up ones, an illustration only."),
]
PlannedShare = Annotated[
    float | None,
    typer.Option("--plan", metavar="SHARE", help="Only say how many samples it takes to bound a share so, like 0.01."),
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


def parse_targets(texts: list[str] | None) -> dict[str, float | str]:
    """Budgets by name from texts such as "macs=0.8"; UsageError where one is not of this form, or given twice."""
    found: dict[str, float | str] = {}
    for text in texts or []:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or name in found:
            why = "is given twice" if sign else "is not of the form NAME=VALUE, such as macs=0.8"
            raise UsageError(f"--target {text!r} {why}")
        found[name] = value
    return found


def parse_ratio(text: str | None) -> float | Literal["auto"] | None:
    """A share, "auto", or None for none; UsageError where it is neither."""
    if text is None:
        return None
    if text == AUTO_RATIO:
        return AUTO_RATIO
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--ratio {text!r}: expected a number in [0, 1), or auto") from None


def parse_rounding(text: str) -> int | None:
    """A number of units, None for "auto"; UsageError where it is neither."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--round-to {text!r}: expected auto or a whole number of at least 1")
    return int(text)


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
