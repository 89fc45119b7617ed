"""The command `sweep`: many models at many budgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..calibration.synthetic import AUTO
from ..errors import counted
from ..evaluation.tables import Row as Cells
from ..evaluation.tables import named_table, printable
from ..sweeps import sweep as sweeping
from ..sweeps.rows import DONE, FAILED, REFUSED, Row, Sweep
from .arguments import (
    CalibrationData,
    CalibrationSamples,
    Evaluation,
    Exclude,
    Include,
    InputRange,
    Json,
    Library,
    Mean,
    Provider,
    Quiet,
    RoundTo,
    Scope,
    Seed,
    Shape,
    Std,
    Threads,
    Verbose,
    parse_normalisation,
    parse_rounding,
    parse_shapes,
    parse_targets,
)
from .screen import console, print_error, say

BETWEEN_BUDGETS = re.compile(r",(?=\s*[a-z]+\s*=)")
"""A comma that is not one of a number such as 4,000,000."""

Models = Annotated[list[Path], typer.Argument(readable=False, metavar="MODELS", help="The models, .onnx files.")]
Targets = Annotated[
    list[str],
    typer.Option(
        "--target",
        metavar="NAME=VALUE,..",
        help="A budget, as of compress; each --target is one of its own, macs=0.8,bytes=4MB one of which both hold.",
    ),
]
Folder = Annotated[
    Path, typer.Option(readable=False, metavar="FOLDER", help="Where results go; what it holds is not done again.")
]
Jobs = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes at a time, which share the cores; default: one for each core."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Let the workers of a Dask cluster do it, such as tcp://host:8786."),
]


def sweep(
    models: Models,
    target: Targets,
    out: Folder,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
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
    evaluation: Evaluation = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compress all MODELS for every budget, and write a table, a page, the models and their records into a folder.

    An interrupted sweep goes on where it was when it is started again. A model that cannot be read, or not be brought
    to a budget, is a row with the reason. Latencies are measured at the end, one result after the other, so results are
    not planned again where they are not faster, as compress does; budgets of latency are planned by times, without
    other jobs beside them.

    Exit codes: 0 done, 1 a worker broke off (start it again), 2 wrong usage, 130 interrupted. What is finished stays.
    """
    found = sweeping.sweep(
        models,
        [_budgets(text) for text in target],
        out,
        jobs=jobs,
        scheduler=scheduler,
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
        evaluation=evaluation,
        progress=None if quiet else _tell,
    )
    if json:
        print(found.to_json())
    elif not quiet:
        _show(found)
    if failed := found.count(FAILED):
        print_error(f"error: {counted(failed, 'result')} could not be made; start the same sweep again")
        raise typer.Exit(1)


def _budgets(text: str) -> dict[str, float | str]:
    """What has to hold together, from a text such as "macs=0.8,bytes=4MB"."""
    return parse_targets(BETWEEN_BUDGETS.split(text))


def _tell(progress: sweeping.SweepProgress) -> None:
    row = progress.row
    if progress.timing:
        said = f"{row.latency_after_ms:.3g} ms, original {row.latency_before_ms:.3g} ms" if row.latency_after_ms else ""
    elif row.status == DONE:
        said = f"{row.macs_share:.3f} of the MACs, divergence {row.divergence:.3g}"
    else:
        said = f"{row.status}, {row.reason}"
    print_error(f"[{progress.done}/{progress.total}] {Path(row.model).stem} {row.budget}: {said}")


def _show(found: Sweep) -> None:
    screen = console()
    done = [row for row in found.rows if row.status == DONE]
    if done:
        header = ("Model", "Budget", "MACs", "Divergence", "Loss", "Latency", "Verdict")
        screen.print(named_table(header, [_cells(row) for row in done], screen.width))
        screen.print()
    for row in found.rows:
        if row.status != DONE:
            said = f"{row.status}: {Path(row.model).stem} at {row.budget}: {row.reason}"
            say(screen, printable(said))
    counts = [f"{found.count(status)} {status}" for status in (DONE, REFUSED, FAILED) if found.count(status)]
    screen.print(f"{', '.join(counts)}; wrote {Path(found.out, sweeping.TABLE)}", soft_wrap=True)


def _cells(row: Row) -> Cells:
    """Shares of the original's MACs and latency, and points of accuracy."""
    latency = row.latency_after_ms / row.latency_before_ms if row.latency_after_ms and row.latency_before_ms else None
    return (
        printable(Path(row.model).stem),
        row.budget,
        f"{row.macs_share:.3f}",
        f"{row.divergence:.3g}",
        "" if row.expected_loss is None else f"{100 * row.expected_loss:.1f}",
        "" if latency is None else f"{latency:.2f}",
        row.verdict or "",
    )
