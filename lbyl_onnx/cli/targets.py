"""Where results go: files that are written whole or not at all, or standard output."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ..compression import CompressionResult
from ..errors import UsageError
from ..evaluation.plan_file import PlanReport
from ..evaluation.records import Report
from ..model.reading import load
from ..model.writing import save, write_text
from .screen import STANDARD


def check_targets(source: Path, target: Path, report: Path | None, force: bool, json: bool) -> None:
    """Refuse what would fail at the end, before the work begins. `json`: the report goes to standard output too."""
    if target == report == STANDARD:
        raise UsageError("OUT and --report cannot both be -, standard output; give one of them a file")
    if json and STANDARD in (target, report):
        what = "OUT" if target == STANDARD else "--report"
        raise UsageError(f"--json prints on standard output, which {what} is too (-); give {what} a file")
    if report is not None and report != STANDARD and report.resolve() in (source.resolve(), target.resolve()):
        raise UsageError(f"--report {report}: is a model of this command; choose another name")
    for path, option in ((target, ""), (report, "--report ")):
        if path is not None and path != STANDARD:
            _check_target(path, option, source, force)


def check_plan(source: Path, path: Path, force: bool, json: bool) -> None:
    """The same for a plan."""
    if json and path == STANDARD:
        raise UsageError("--json prints on standard output, which --out is too (-); give --out a file")
    if path != STANDARD:
        _check_target(path, "--out ", source, force)


def write_plan(plan: PlanReport, path: Path) -> None:
    """Write a plan, whole or not at all."""
    _write_text(plan.to_json(), path)


def _check_target(path: Path, option: str, source: Path, force: bool) -> None:
    folder = path.parent
    try:
        if not folder.is_dir():
            raise UsageError(f"{option}{path}: the folder {folder} does not exist; create it or choose another")
        if path.is_dir():
            raise UsageError(f"{option}{path}: is a folder; give the name of a file")
        if path.exists() and not force:
            what = "is the input model" if source.exists() and path.samefile(source) else "exists already"
            raise UsageError(f"{option}{path}: {what}; choose another name or use --force to overwrite it")
    except OSError as error:
        raise UsageError(f"{option}{path}: cannot be written ({error.strerror}); choose another name") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option}{path}: the folder {folder} is not writable; choose another")


def write_result(result: CompressionResult, target: Path, report: Path | None, force: bool) -> tuple[Report, str]:
    """Write the model and its report, both or none; but what took the place of another model stays.

    Returns the report with the size of the files on disk, and words that name what was written.
    """
    if target == STANDARD:
        content = result.model.SerializeToString()
        record = replace(result.report, output=replace(result.report.output, path="-", bytes=len(content)))
        if report is not None:
            _write_text(record.to_json(), report)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return record, "the model to standard output"
    fresh = not target.exists()
    save(result, target, force)
    written: tuple[Path, ...] = (target,)
    try:
        model = load(target)
        written = model.files
        record = replace(
            result.report, output=replace(result.report.output, path=str(target), bytes=model.bytes_on_disk)
        )
        if report is not None:
            _write_text(record.to_json(), report)
    except BaseException:
        for file in written if fresh else ():
            file.resolve().unlink(missing_ok=True)
        raise
    return record, " and ".join(map(str, written))


def _write_text(text: str, path: Path) -> None:
    if path == STANDARD:
        print(text)
    else:
        write_text(text, path)
