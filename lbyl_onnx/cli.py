"""The command line: `lbyl-onnx compress`, `inspect` and `validate`."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

import lbyl_onnx

from .calibration.samples import parse_normalisation, parse_shapes
from .compression import DEFAULT_LAMBDA1, DEFAULT_LAMBDA2, CompressionResult
from .errors import LbylError, UsageError
from .evaluation import tables
from .evaluation.records import Report, Validation, to_json
from .model.file import Model
from .restoration.lbyl import METHODS
from .selection.importance import CRITERIA

UNLIMITED = 1000
NARROWEST = 60
INTERRUPTED = 130
_ParserError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""The base of errors in arguments, which typer itself does not export."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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


def main() -> None:
    """Entry point of `lbyl-onnx`: run a command and exit with its code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on stderr.

    `arguments` are those after the program's name, None: those of the process.
    """
    try:
        code = app(arguments, prog_name="lbyl-onnx", standalone_mode=False) or 0
        return _fail("interrupted", code) if code == INTERRUPTED else code
    except LbylError as error:
        return _fail(str(error), error.exit_code)
    except _ParserError as error:
        command = error.ctx.command_path if error.ctx else "lbyl-onnx"
        return _fail(f"{error.format_message().rstrip('.')}; see {command} --help", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except MemoryError:
        return _fail("out of memory; use a machine with more, or a smaller model", 1)
    except Exception as error:
        if os.environ.get("LBYL_ONNX_DEBUG") == "1":
            traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error}; please report it", 1, prefix="")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lbyl-onnx {lbyl_onnx.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Make ONNX models smaller and faster: remove filters, restore what is lost in closed form, validate."""


@app.command(short_help="Write a smaller model.")
def compress(
    source: Annotated[Path, typer.Argument(readable=False, metavar="IN", help="The model, an .onnx file.")],
    target: Annotated[Path, typer.Argument(readable=False, metavar="OUT", help="Where the compressed model goes.")],
    ratio: Annotated[float, typer.Option(help="Share of units to remove from each group, in [0, 1).")] = 0.3,
    restore: Annotated[str, typer.Option(metavar="|".join(METHODS), help="How to make up for them.")] = "moments",
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
        str, typer.Option(metavar="synthetic|PATH", help="Samples to measure on: made up, an .npz, a folder of images.")
    ] = "synthetic",
    samples: Annotated[int | None, typer.Option(metavar="N", help="How many samples; default: by their size.")] = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Annotated[int, typer.Option(help="Seed of synthetic inputs and of --criterion random.")] = 0,
    provider: Provider = "auto",
    report: Annotated[
        Path | None,
        typer.Option(metavar="PATH.json", help="Write a full record here, with each layer's errors."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT, even where it is IN.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")] = False,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Do not run the result against the original.")
    ] = False,
) -> None:
    """Compress a model, compare it with the original in onnxruntime, and write it where it passes.

    Exit codes: 0 done, 2 wrong usage, 3 unreadable or invalid model, 4 nothing could be removed, 5 the result
    failed validation. Unless it is 0, nothing is written.
    """
    _check_targets(source, target, report, force)
    with _progress("reading", quiet) as progress:
        model = lbyl_onnx.load(source)
        result = lbyl_onnx.compress(
            model,
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
            validation=not no_validate,
            layer_errors=report is not None,
            progress=progress,
        )
        progress("writing")
        written = _write(result, _bytes(_files(model)), target, report, force)
    if not quiet:
        _print_compression(written, given=calibration != "synthetic")
    for warning in written.warnings:
        _print_error(f"warning: {warning}")


@app.command(short_help="List the channel groups of a model.")
def inspect(
    model: Annotated[Path, typer.Argument(readable=False, metavar="MODEL", help="An .onnx file.")],
    shape: Shape = None,
    json: Json = False,
) -> None:
    """List the channel groups of a model: what could be removed, and why the rest could not."""
    with _progress("analysing"):
        inspection = lbyl_onnx.inspect(model, parse_shapes(shape))
    if json:
        print(inspection.to_json())
        return
    console = _console()
    if inspection.groups:
        console.print(tables.groups_table(inspection, console.width))
        console.print()
    console.print(tables.totals(inspection), soft_wrap=True)


@app.command(short_help="Compare two models in onnxruntime.")
def validate(
    original: Annotated[Path, typer.Argument(readable=False, metavar="A", help="The original, an .onnx file.")],
    compressed: Annotated[Path, typer.Argument(readable=False, metavar="B", help="The model to compare with it.")],
    data: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="EVAL.npz",
            help="Arrays named after the inputs, first axis = samples; labels.",
        ),
    ] = None,
    provider: Provider = "auto",
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", help="Synthetic inputs where there are no data; default: 4 to 16, by size."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare two models in onnxruntime: outputs, latency and, with labels, accuracy.

    Exit codes: 0 done, 2 wrong usage, 3 unreadable or invalid model, 5 B does not load, has other shapes or
    is not finite where A is.
    """
    with _progress("validating"):
        validation = lbyl_onnx.validate(
            original,
            compressed,
            data,
            provider,
            samples,
            seed,
            parse_shapes(shape),
            parse_normalisation(mean, std, input_range),
        )
    if json:
        print(to_json(validation))
    else:
        console = _console()
        console.print(tables.measurement_table(validation))
        _print_agreement(console, validation)


def _check_targets(source: Path, target: Path, report: Path | None, force: bool) -> None:
    """Refuse what would fail at the end, before the work begins."""
    _check_target(target)
    if target.exists() and not force:
        what = "is the input model" if source.exists() and target.samefile(source) else "exists already"
        raise UsageError(f"{target}: {what}; choose another name or use --force to overwrite it")
    if report is not None:
        _check_target(report)
        if report.resolve() in (source.resolve(), target.resolve()):
            raise UsageError(f"{report}: is a model of this command; choose another name for --report")


def _check_target(path: Path) -> None:
    folder = path.parent
    try:
        if not folder.is_dir():
            raise UsageError(f"{path}: the folder {folder} does not exist; create it or choose another")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; give the name of a file")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another name") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: the folder {folder} is not writable; choose another")


def _write(result: CompressionResult, before: int, target: Path, report: Path | None, force: bool) -> Report:
    """Write the model and its report, both or none; but what took the place of another model stays.

    Returns the report with the size of the files on disk, `before` of the input.
    """
    fresh = not target.exists()
    lbyl_onnx.save(result.compressed, target, force)
    files = {target}
    try:
        files = _files(lbyl_onnx.load(target))
        record = replace(
            result.report,
            input=replace(result.report.input, bytes=before),
            output=replace(result.report.output, path=str(target), bytes=_bytes(files)),
        )
        if report is not None:
            _write_text(record.to_json(), report)
    except BaseException:
        for file in files if fresh else ():
            file.unlink(missing_ok=True)
        raise
    return record


def _write_text(text: str, path: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=".lbyl-onnx-", dir=path.parent) as folder:
            draft = Path(folder, path.name)
            draft.write_text(text + "\n", encoding="utf-8")
            os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def _files(model: Model) -> set[Path]:
    """The files that a model was read from: its own and those of external data."""
    assert model.path is not None
    return {model.path, *(model.path.parent / location for location in model.external.values())}


def _bytes(files: set[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _print_compression(report: Report, given: bool) -> None:
    """What was done; `given`: whether the user gave samples, on which the two models could be compared."""
    console = _console()
    console.print(tables.compression_table(report))
    console.print()
    console.print(tables.cut_summary(report), soft_wrap=True)
    if report.calibration is not None:
        console.print(tables.printable(f"measured on {report.calibration}"))
    if report.validation is not None:
        _print_agreement(console, report.validation)
        if given:
            command = f"lbyl-onnx validate {report.input.path} {report.output.path} --data EVAL.npz"
            console.print(tables.printable(f"to compare on real samples: {command}"), soft_wrap=True)
    else:
        console.print("not compared with the original (--no-validate)")
    console.print(f"wrote {report.output.path}", soft_wrap=True)


def _print_agreement(console: Console, validation: Validation) -> None:
    console.print(tables.measured_on(validation), soft_wrap=True)
    if validation.free_outputs:
        names = ", ".join(validation.free_outputs)
        console.print(tables.printable(f"not compared, as their sizes follow values: {names}"), soft_wrap=True)
    if validation.outputs:
        console.print()
        console.print(tables.outputs_table(validation, console.width))
        console.print()


def _console() -> Console:
    """Standard output, as wide as the terminal or COLUMNS says; a file or pipe has no limit."""
    console = Console(markup=False, emoji=False, highlight=False)
    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    console.width = max(console.width, NARROWEST) if limited else UNLIMITED
    return console


@contextmanager
def _progress(stage: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the name of the stage on standard error, if that is a terminal; yields its setter."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage: None
        return
    with Console(stderr=True).status(stage, spinner="line") as status:
        yield status.update


def _fail(message: str, code: int, prefix: str = "error: ") -> int:
    _print_error(prefix + message)
    return code


def _print_error(line: str) -> None:
    print(tables.printable(line), file=sys.stderr)
