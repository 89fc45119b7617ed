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
from ..model.writing import save, write_whole
from ..reporting.figures import require_libraries
from ..reporting.files import is_page, plot_paths, plots, rendered
from .screen import STANDARD


def check_targets(source: Path, target: Path, report: Path | None, plot: Path | None, force: bool, json: bool) -> None:
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
    if report is not None and is_page(report):
        require_libraries()
    if plot is not None:
        check_plot(source, plot, force)


def check_plot(source: Path, folder: Path, force: bool) -> None:
    """The same for a folder of pictures."""
    require_libraries()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--plot {folder}: is a file; give the name of a folder")
    for path in plot_paths(folder) if folder.exists() else (folder,):
        _check_target(path, "--plot ", source, force)


def check_page(record: Path, path: Path, force: bool) -> None:
    """The same for the page of a record."""
    if not is_page(path):
        raise UsageError(f"{path}: is no name of a page; give one that ends in .html")
    require_libraries()
    _check_target(path, "", record, force)


def check_plan(source: Path, path: Path, force: bool, json: bool) -> None:
    """The same for a plan."""
    if json and path == STANDARD:
        raise UsageError("--json prints on standard output, which --out is too (-); give --out a file")
    if path != STANDARD:
        _check_target(path, "--out ", source, force)


def write_plan(plan: PlanReport, path: Path) -> None:
    """Write a plan, whole or not at all."""
    if path == STANDARD:
        print(plan.to_json())
    else:
        write_whole({path: f"{plan.to_json()}\n".encode()})


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


def write_result(
    result: CompressionResult, target: Path, report: Path | None, plot: Path | None, force: bool
) -> tuple[Report, str]:
    """Write the model, its report and pictures, all or none; but what took the place of another model stays.

    Returns the report with the size of the files on disk, and words that name what was written.
    """
    if target == STANDARD:
        content = result.model.SerializeToString()
        record = replace(result.report, output=replace(result.report.output, path="-", bytes=len(content)))
        write_record(record, report, plot)
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
        write_record(record, report, plot)
    except BaseException:
        for file in written if fresh else ():
            file.resolve().unlink(missing_ok=True)
        raise
    return record, " and ".join(map(str, written))


def write_record(record: Report, report: Path | None, plot: Path | None) -> None:
    """Write a report and its pictures, where they are wanted, both or none."""
    files = plots(record, plot) if plot is not None else {}
    if report is not None and report != STANDARD:
        files[report] = rendered(record, report)
    write_whole(files)
    if report == STANDARD:
        print(record.to_json())
