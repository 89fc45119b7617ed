"""Reports and pictures as files, each written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError, article
from ..evaluation.records import Report
from ..model.writing import write_whole
from .figures import png, require_libraries, svg
from .page import page
from .pictures import WORDS, pictures

PAGES = (".html", ".htm")
"""Suffixes of pages; a report of any other name is JSON."""
EXPECTED = "a record that `lbyl-onnx compress --report run.json` of this version wrote"


def save_report(report: Report, path: str | Path, force: bool = False) -> None:
    """Writes a report, all or nothing: as a page to read where `path` ends in .html or .htm, else as JSON, which
    `Report.from_json` reads. Raises UsageError where the file exists and `force` is not given, it cannot be written, or
    what makes pages is missing."""
    if not isinstance(path, str | Path):
        raise UsageError(f"is {article(type(path).__name__)}; expected the path of a file", "path")
    path = Path(path)
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; choose another name, or overwrite it with force")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    write_whole({path: rendered(report, path)})


def read_report(path: Path) -> Report:
    """The record in a JSON file that `--report` or `save_report` wrote. Raises UsageError."""
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; expected {EXPECTED}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no report ({str(error).splitlines()[0]}); expected {EXPECTED}") from error


def save_plots(report: Report, folder: str | Path, force: bool = False) -> tuple[Path, ...]:
    """Writes the pictures of a report to a folder, which is made where it is missing, as SVG and PNG files, and returns
    their paths. Raises UsageError as `save_report` does."""
    files = plots(report, Path(folder))
    there = next((path for path in files if path.exists()), None)
    if there is not None and not force:
        raise UsageError(f"{there}: exists already; choose another folder, or overwrite it with force")
    write_whole(files)
    return tuple(files)


def is_page(path: Path) -> bool:
    """Whether a report of this name is a page."""
    return path.suffix.lower() in PAGES


def rendered(report: Report, path: Path) -> bytes:
    """What belongs into a report of this name."""
    text = page(report) if is_page(path) else report.to_json() + "\n"
    return text.encode("utf-8", "backslashreplace")


def plots(report: Report, folder: Path) -> dict[Path, bytes]:
    """What belongs into a folder of pictures, by path."""
    require_libraries()
    kinds = {"svg": svg, "png": png}
    found = pictures(report)
    return {folder / f"{name}.{kind}": made(found[name]) for name in found for kind, made in kinds.items()}


def plot_paths(folder: Path) -> tuple[Path, ...]:
    """All files that a folder of pictures may come to hold."""
    return tuple(folder / f"{name}.{kind}" for name in WORDS for kind in ("svg", "png"))
