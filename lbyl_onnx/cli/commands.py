"""The commands: their arguments, and what they call and show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import compression
from ..calibration.synthetic import AUTO
from ..compression import DEFAULT_LAMBDA1, DEFAULT_LAMBDA2, DEFAULT_RATIO
from ..evaluation import inspection, tables, validation
from ..evaluation.records import to_json
from ..model.model import Model
from ..model.reading import load
from ..restoration import RESTORATIONS
from ..selection import CRITERIA
from .arguments import (
    InputRange,
    Json,
    Library,
    Mean,
    Provider,
    Seed,
    Shape,
    Std,
    parse_normalisation,
    parse_shapes,
)
from .screen import STANDARD, console, print_agreement, print_compression, print_error, progress, waiting
from .targets import check_targets, write_result


def compress(
    source: Annotated[
        Path, typer.Argument(readable=False, metavar="IN", help="The model, an .onnx file, or - for standard input.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            readable=False, metavar="OUT", help="Where the compressed model goes, or - for standard output."
        ),
    ],
    ratio: Annotated[float, typer.Option(help="Share of units to remove from each group, in [0, 1).")] = DEFAULT_RATIO,
    restore: Annotated[str, typer.Option(metavar="|".join(RESTORATIONS), help="How to make up for them.")] = "moments",
    criterion: Annotated[str, typer.Option(metavar="|".join(CRITERIA), help="Which units go first.")] = "obs",
    lambda1: Annotated[float, typer.Option(help="lbyl: weight of the shift's error.")] = DEFAULT_LAMBDA1,
    lambda2: Annotated[float, typer.Option(help="lbyl: weight of the solution's size.")] = DEFAULT_LAMBDA2,
    scope: Annotated[
        str, typer.Option(metavar="chains|all", help="chains: leave units of residual sums and Concat alone.")
    ] = "chains",
    round_to: Annotated[int, typer.Option(metavar="N", help="Keep a multiple of N units; try 8 for speed.")] = 1,
    include: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Only groups with a producer whose node name matches.")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(metavar="REGEX", help="No group with a producer whose node name matches.")
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            metavar="auto|photos|leaves|noise|PATH",
            help="Samples to measure on: made up (auto: crops of photographs for images), an .npz, a folder of images.",
        ),
    ] = AUTO,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many samples; default: 64 to 512 made up, by what they cost (8192 without convolutions), 512 "
            "images, all of an .npz.",
        ),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Annotated[int, typer.Option(help="Seed of synthetic inputs and of --criterion random.")] = 0,
    provider: Provider = "auto",
    custom_ops_library: Library = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="PATH",
            help="Labelled samples to compare on, which give accuracies: an .npz with labels, or a folder of images in "
            "one sub-folder for each class.",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="P", help="Fail where less than P per cent of top-1 answers agree.")
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Fail where an output keeps less signal over error, in decibels.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Fail where accuracy on --eval falls by more points.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="PATH.json", help="Write a full record here (-: standard output), with layers' errors."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT and the report, even where OUT is IN.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")] = False,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Do not run the result against the original.")
    ] = False,
) -> None:
    """Compress the model IN, compare it with the original in onnxruntime, and write it to OUT where it passes.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 4 nothing could be removed,
    5 the result failed validation, 130 interrupted. Unless it is 0, nothing is written.
    """
    check_targets(source, target, report, force)
    with progress(quiet) as tell:
        result = compression.compress(
            _read(source),
            ratio,
            restore=restore,
            criterion=criterion,
            lambda1=lambda1,
            lambda2=lambda2,
            scope=scope,
            round_to=round_to,
            include=include,
            exclude=exclude,
            calibration=calibration,
            samples=samples,
            shapes=parse_shapes(shape),
            normalisation=parse_normalisation(mean, std, input_range),
            seed=seed,
            provider=provider,
            custom_ops_library=custom_ops_library,
            evaluation=evaluation,
            min_agreement=min_agreement,
            min_sqnr=min_sqnr,
            max_drop=max_drop,
            validation=not no_validate,
            layer_errors=report is not None,
            progress=tell,
        )
        record, written = write_result(result, target, report, force)
    if not quiet:
        print_compression(console(stderr=STANDARD in (target, report)), record, written)
    for warning in record.warnings:
        print_error(f"warning: {warning}")


def inspect(
    model: Annotated[Path, typer.Argument(readable=False, metavar="MODEL", help="An .onnx file, or -.")],
    shape: Shape = None,
    custom_ops_library: Library = None,
    json: Json = False,
) -> None:
    """List the channel groups of a model: what could be removed, and why the rest could not.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 130 interrupted.
    """
    with waiting("analysing"):
        found = inspection.inspect(_read(model), parse_shapes(shape), custom_ops_library)
    if json:
        print(found.to_json())
        return
    screen = console()
    if found.groups:
        screen.print(tables.groups_table(found, screen.width))
        screen.print()
    screen.print(tables.totals(found), soft_wrap=True)


def validate(
    original: Annotated[Path, typer.Argument(readable=False, metavar="A", help="The original, an .onnx file.")],
    compressed: Annotated[Path, typer.Argument(readable=False, metavar="B", help="The model to compare with it.")],
    data: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="PATH",
            help="An .npz of arrays named after the inputs, first axis = samples, and labels; or a folder of images.",
        ),
    ] = None,
    provider: Provider = "auto",
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many samples; default: all of an .npz, 512 images, 16 to 128 made up."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Seed = 0,
    custom_ops_library: Library = None,
    json: Json = False,
) -> None:
    """Compare the models A and B in onnxruntime: outputs, latency and, with labels, accuracy.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 5 B does not load, has other
    shapes or is not finite where A is, 130 interrupted.
    """
    with waiting("validating"):
        found = validation.validate(
            original,
            compressed,
            data,
            provider,
            samples,
            seed,
            parse_shapes(shape),
            parse_normalisation(mean, std, input_range),
            custom_ops_library,
        )
    if json:
        print(to_json(found))
    else:
        screen = console()
        screen.print(tables.measurement_table(found))
        print_agreement(screen, found)
    for warning in found.warnings:
        print_error(f"warning: {warning}")


def _read(path: Path) -> Model:
    """The model in a file, or on standard input."""
    return load(sys.stdin.buffer.read() if path == STANDARD else path)
