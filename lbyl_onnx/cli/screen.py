"""What a person sees: tables on standard output or, where that carries data, on standard error; progress; errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..evaluation import tables
from ..evaluation.certificates import table as certificates
from ..evaluation.certificates.certify import Certificate
from ..evaluation.certificates.needed import SamplesNeeded
from ..evaluation.records import Report, Validation
from ..progress import PACKAGE, Listener, Progress

STANDARD = Path("-")
"""Stands for standard input or output."""
UNLIMITED = 1000
NARROWEST = 40
LAYER_WIDTH = 24


def console(stderr: bool = False) -> Console:
    """Standard output (or error), as wide as the terminal or COLUMNS says; a file or pipe has no limit."""
    result = Console(markup=False, emoji=False, highlight=False, stderr=stderr)
    limited = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    result.width = max(result.width, NARROWEST) if limited else UNLIMITED
    return result


def say(screen: Console, text: str) -> None:
    """Sentences, broken between words where the screen has an end."""
    screen.print(text, soft_wrap=screen.width == UNLIMITED)


def print_compression(screen: Console, report: Report, written: str) -> None:
    """What was done, and where it was `written`."""
    screen.print(tables.compression_table(report, screen.width))
    screen.print()
    say(screen, tables.cut_summary(report))
    if report.calibration is not None:
        say(screen, tables.printable(f"measured on {report.calibration}"))
    bound = tables.bound(report)
    if bound is not None:
        say(screen, bound)
    if report.validation is not None:
        print_agreement(screen, report.validation)
    else:
        screen.print("not compared with the original (--no-validate)")
    screen.print(f"wrote {written}", soft_wrap=True)


def print_agreement(screen: Console, validation: Validation) -> None:
    """How far the outputs of two models agree, and on what that was measured."""
    say(screen, tables.measured_on(validation))
    for names, why in (
        (validation.free_outputs, "their sizes follow values"),
        (validation.silent_outputs, "they are the same for all samples"),
    ):
        if names:
            say(screen, tables.printable(f"not compared, as {why}: {', '.join(names)}"))
    if validation.outputs:
        screen.print()
        screen.print(tables.outputs_table(validation, screen.width))
        screen.print()
    answers, verdict = tables.answers_table(validation, screen.width), tables.verdict(validation)
    if answers is not None:
        screen.print(answers)
        screen.print()
    if verdict is not None:
        say(screen, verdict)


def print_certificate(screen: Console, certificate: Certificate) -> None:
    """What is claimed of new inputs, what is not, and what it rests on."""
    screen.print(certificates.heading(certificate))
    screen.print()
    screen.print(certificates.certificate_table(certificate))
    screen.print()
    for line in certificates.remarks(certificate):
        screen.print(line)


def print_samples_needed(screen: Console, needed: SamplesNeeded) -> None:
    """How many samples claims take."""
    screen.print(certificates.plan_heading(needed))
    screen.print()
    screen.print(certificates.plan_table(needed))


@contextmanager
def progress(quiet: bool = False) -> Iterator[Listener]:
    """What shows where a run is on standard error: a bar if that is a terminal, else a line for each stage; nothing
    with `quiet`, or where the log shows it."""
    if quiet or _logged():
        yield lambda progress: None
    elif sys.stderr.isatty():
        columns = (
            BarColumn(min(24, console(stderr=True).width // 4)),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.description}", markup=False),
        )
        with Bar(*columns, console=Console(stderr=True, markup=False), transient=True) as bar:
            task = bar.add_task("reading", total=1.0)
            yield lambda progress: bar.update(task, completed=progress.share, description=_described(progress))
    else:
        told = set[str]()

        def tell(progress: Progress) -> None:
            if progress.stage not in told:
                told.add(progress.stage)
                print_error(f"{progress.stage} ({progress.seconds:.0f} s)")

        yield tell


@contextmanager
def waiting(stage: str) -> Iterator[None]:
    """A spinner on standard error, if that is a terminal."""
    if not sys.stderr.isatty() or _logged():
        yield
        return
    with Console(stderr=True).status(stage, spinner="line"):
        yield


def _logged() -> bool:
    return logging.getLogger(PACKAGE).isEnabledFor(logging.INFO)


def _described(progress: Progress) -> str:
    """Stage, layer and remaining time, such as "restoring conv_7, 12 s left"."""
    words = f"{progress.stage} {tables.shorten(tables.printable(progress.layer), LAYER_WIDTH)}".strip()
    return words if progress.remaining is None else f"{words}, {progress.remaining:.0f} s left"


def print_error(line: str) -> None:
    """One line on standard error."""
    print(tables.printable(line), file=sys.stderr)
