"""The commands: their arguments, and what they call and show."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import compression
from ..calibration.synthetic import AUTO
from ..compression import DEFAULT_LAMBDA1, DEFAULT_LAMBDA2
from ..errors import UsageError
from ..evaluation import inspection, planning, tables, validation
from ..evaluation.json_form import to_json
from ..evaluation.judging import NO_LABELS
from ..evaluation.verdict import check_limits
from ..model.model import Model
from ..model.reading import load
from ..options import Limits
from ..reporting.files import read_report
from .arguments import (
    Allocation,
    Budgets,
    CalibrationData,
    CalibrationSamples,
    ComparisonSamples,
    Compressed,
    CompressionSeed,
    Criterion,
    Data,
    Evaluation,
    Exclude,
    Force,
    Include,
    InputRange,
    Inspected,
    Json,
    Lambda1,
    Lambda2,
    Library,
    MaxDataDrop,
    MaxDrop,
    Mean,
    MinAgreement,
    MinSqnr,
    NoValidate,
    Original,
    Page,
    PlanFile,
    PlanTarget,
    PlotFolder,
    Provider,
    Quiet,
    Ratio,
    RatioOrAuto,
    Recorded,
    ReportFile,
    Restore,
    RoundTo,
    Scope,
    Seed,
    Shape,
    Source,
    Std,
    Target,
    Threads,
    Verbose,
    parse_normalisation,
    parse_ratio,
    parse_rounding,
    parse_shapes,
    parse_targets,
)
from .screen import (
    STANDARD,
    console,
    print_agreement,
    print_compression,
    print_error,
    progress,
    say,
    waiting,
)
from .targets import check_page, check_plan, check_plot, check_targets, write_plan, write_record, write_result


def compress(
    source: Source,
    target: Target,
    ratio: RatioOrAuto = None,
    budget: Budgets = None,
    allocation: Allocation = "auto",
    plan_file: PlanFile = None,
    restore: Restore = "moments",
    criterion: Criterion = "obs",
    lambda1: Lambda1 = DEFAULT_LAMBDA1,
    lambda2: Lambda2 = DEFAULT_LAMBDA2,
    scope: Scope = "chains",
    round_to: RoundTo = "auto",
    include: Include = None,
    exclude: Exclude = None,
    calibration: CalibrationData = AUTO,
    samples: CalibrationSamples = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: CompressionSeed = 0,
    provider: Provider = "auto",
    threads: Threads = None,
    custom_ops_library: Library = None,
    evaluation: Evaluation = None,
    min_agreement: MinAgreement = None,
    min_sqnr: MinSqnr = None,
    max_drop: MaxDrop = None,
    report: ReportFile = None,
    plot: PlotFolder = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_validate: NoValidate = False,
) -> None:
    """Compress the model IN, compare it with the original in onnxruntime, and write it to OUT where it passes.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 4 nothing could be removed,
    5 the result failed validation, 130 interrupted. Unless it is 0, nothing is written.
    """
    check_targets(source, target, report, plot, force, json)
    with progress(quiet) as tell:
        result = compression.compress(
            _read(source),
            parse_ratio(ratio),
            restore=restore,
            criterion=criterion,
            lambda1=lambda1,
            lambda2=lambda2,
            scope=scope,
            target=parse_targets(budget),
            allocation=allocation,
            plan=plan_file,
            round_to=parse_rounding(round_to),
            threads=threads,
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
            layer_errors=report is not None or plot is not None,
            progress=tell,
        )
        record, written = write_result(result, target, report, plot, force)
    if json:
        print(record.to_json())
    elif not quiet:
        print_compression(console(stderr=STANDARD in (target, report)), record, written)
    for warning in record.warnings:
        print_error(f"warning: {warning}")


def plan(
    model: Inspected,
    ratio: Ratio = None,
    budget: Budgets = None,
    scope: Scope = "chains",
    round_to: RoundTo = "auto",
    include: Include = None,
    exclude: Exclude = None,
    calibration: CalibrationData = AUTO,
    samples: CalibrationSamples = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Seed = 0,
    provider: Provider = "auto",
    threads: Threads = None,
    custom_ops_library: Library = None,
    out: PlanTarget = None,
    force: Force = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure what each group of a model is worth to its outputs, what ten budgets would cost, and plan for one of them
    (default: macs=0.8); `compress --plan` carries that out.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 4 nothing could be removed, 130
    interrupted.
    """
    if out is not None:
        check_plan(model, out, force, json)
    with progress() as tell:
        found = planning.plan(
            _read(model),
            ratio,
            target=parse_targets(budget),
            scope=scope,
            round_to=parse_rounding(round_to),
            include=include,
            exclude=exclude,
            calibration=calibration,
            samples=samples,
            shapes=parse_shapes(shape),
            normalisation=parse_normalisation(mean, std, input_range),
            seed=seed,
            provider=provider,
            threads=threads,
            custom_ops_library=custom_ops_library,
            progress=tell,
        )
    if out is not None:
        write_plan(found, out)
    if json:
        print(found.to_json())
    else:
        screen = console(stderr=out == STANDARD)
        screen.print(tables.plan_table(found, screen.width))
        screen.print()
        screen.print(tables.frontier_table(found, screen.width))


def report(record: Recorded, page: Page, plot: PlotFolder = None, force: Force = False) -> None:
    """Make a page to read of what `compress --report RUN.json` recorded.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 130 interrupted.
    """
    check_page(record, page, force)
    if plot is not None:
        check_plot(record, plot, force)
    write_record(read_report(record), page, plot)


def inspect(
    model: Inspected,
    shape: Shape = None,
    custom_ops_library: Library = None,
    json: Json = False,
    verbose: Verbose = False,
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
    say(screen, tables.totals(found))


def validate(
    original: Original,
    compressed: Compressed,
    data: Data = None,
    provider: Provider = "auto",
    samples: ComparisonSamples = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Seed = 0,
    custom_ops_library: Library = None,
    min_agreement: MinAgreement = None,
    min_sqnr: MinSqnr = None,
    max_drop: MaxDataDrop = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare the models A and B in onnxruntime: outputs, latency and, with labels, accuracy.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 unreadable or invalid model, 5 B does not load, has other
    shapes, is not finite where A is or breaks a limit, 130 interrupted.
    """
    limits = Limits(min_agreement, min_sqnr, max_drop)
    if max_drop is not None and data is None:
        raise UsageError("needs labelled samples; give them with --data", "max_drop")
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
        screen.print(tables.measurement_table(found, screen.width))
        print_agreement(screen, found)
    for warning in found.warnings:
        print_error(f"warning: {warning}")
    if max_drop is not None and found.accuracy_before is None:
        raise UsageError(f"{data}: {NO_LABELS}", "data")
    check_limits(found, limits, advice="")


def _read(path: Path) -> Model:
    """The model in a file, or on standard input."""
    return load(sys.stdin.buffer.read() if path == STANDARD else path)
