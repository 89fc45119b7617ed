"""What a person sees: tables on standard output or, where that carries data, on standard error; progress; errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ..calibration.samples import SYNTHETIC
from ..evaluation import tables
from ..evaluation.records import Report, Validation

STANDARD = Path("-")
"""Stands for standard input or output."""
UNLIMITED = 1000
NARROWEST = 60


def console(stderr: bool = False) -> Console:
    """Standard output (or error), as wide as the terminal or COLUMNS says; a file or pipe has no limit."""
    result = Console(markup=False, emoji=False, highlight=False, stderr=stderr)
    limited = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    result.width = max(result.width, NARROWEST) if limited else UNLIMITED
    return result


def print_compression(screen: Console, report: Report, written: str) -> None:
    """What was done, and where it was `written`."""
    screen.print(tables.compression_table(report))
    screen.print()
    screen.print(tables.cut_summary(report), soft_wrap=True)
    if report.calibration is not None:
        screen.print(tables.printable(f"measured on {report.calibration}"))
    if report.validation is not None:
        print_agreement(screen, report.validation)
        given = report.options.samples.calibration != SYNTHETIC
        if given and report.input.path is not None and report.output.path != str(STANDARD):
            command = f"lbyl-onnx validate {report.input.path} {report.output.path} --data EVAL.npz"
            screen.print(tables.printable(f"to compare on real samples: {command}"), soft_wrap=True)
    else:
        screen.print("not compared with the original (--no-validate)")
    screen.print(f"wrote {written}", soft_wrap=True)


def print_agreement(screen: Console, validation: Validation) -> None:
    """How far the outputs of two models agree, and on what that was measured."""
    screen.print(tables.measured_on(validation), soft_wrap=True)
    if validation.free_outputs:
        names = ", ".join(validation.free_outputs)
        screen.print(tables.printable(f"not compared, as their sizes follow values: {names}"), soft_wrap=True)
    if validation.outputs:
        screen.print()
        screen.print(tables.outputs_table(validation, screen.width))
        screen.print()


@contextmanager
def progress(stage: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the name of the stage on standard error, if that is a terminal; yields its setter."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage: None
        return
    with Console(stderr=True).status(stage, spinner="line") as status:
        yield status.update


def print_error(line: str) -> None:
    """One line on standard error."""
    print(tables.printable(line), file=sys.stderr)
