"""Runs one command and turns whatever happens into an exit code and at most one line on standard error."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from ..errors import LbylError, UsageError
from .certify import certify
from .commands import compress, inspect, plan, report, validate
from .config import defaults
from .screen import print_error
from .sweep import sweep

INTERRUPTED = 130
COMPLETING = "_LBYL_ONNX_COMPLETE"
"""Set by shells that ask for completions."""
_ParserError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""The base of errors in arguments, which typer itself does not export."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Command(TyperCommand):
    """A command whose usage line says IN OUT, without the braces that some versions of typer put around them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.translate({ord("{"): None, ord("}"): None}) for piece in super().collect_usage_pieces(ctx)]


class _PlanCommand(_Command):
    """A command that takes `--json PATH.json` for `--out PATH.json` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        pairs = zip(args, [*args[1:], ""], strict=True)
        return super().parse_args(
            ctx, ["--out" if word == "--json" and path.endswith(".json") else word for word, path in pairs]
        )


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "compress": (compress, "Write a smaller model."),
    "plan": (plan, "Show what each group is worth, and what budgets cost."),
    "inspect": (inspect, "List the channel groups of a model."),
    "validate": (validate, "Compare two models in onnxruntime."),
    "certify": (certify, "Bound what a compressed model does on new inputs."),
    "report": (report, "Make a page of what compress recorded."),
    "sweep": (sweep, "Compress many models for many budgets."),
}
for _name, (_function, _help) in COMMANDS.items():
    app.command(_name, cls=_PlanCommand if _function is plan else _Command, short_help=_help)(_function)


def main() -> int:
    """Prepare the process, run its command and return the exit code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    return run()


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on stderr.

    `arguments` are those after the program's name, None: those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given, prog_name="lbyl-onnx", standalone_mode=False, default_map=_defaults()) or 0
        return _fail("interrupted", code) if code == INTERRUPTED else code
    except UsageError as error:
        option = f"--{error.parameter.replace('_', '-')} " if error.parameter else ""
        return _fail(option + error.message, error.exit_code)
    except LbylError as error:
        return _fail(str(error), error.exit_code)
    except _ParserError as error:
        return _fail(f"{error.format_message().rstrip('.')}; see {_command_path(error, given)} --help", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except MemoryError:
        return _fail("out of memory; use a machine with more, or a smaller model", 1)
    except Exception as error:
        if os.environ.get("LBYL_ONNX_DEBUG") == "1":
            traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error}; please report it", 1, prefix="")


def _defaults() -> dict[str, dict[str, Any]]:
    """What a file in the working directory says, but not to a shell that asks for completions."""
    if COMPLETING in os.environ:
        return {}
    parsers = cast(Any, typer.main.get_command(app)).commands
    return defaults({name: (function, _options(parsers[name])) for name, (function, _) in COMMANDS.items()})


def _options(parser: Any) -> dict[str, str]:
    """The parameter of each option that a command has."""
    pairs = ((option, each.name) for each in parser.params for option in each.opts)
    return {option[2:]: name for option, name in pairs if option.startswith("--") and option != "--help"}


def _command_path(error: typer.BadParameter, given: list[str]) -> str:
    """The command whose help explains an error, which the parser does not always know."""
    if error.ctx is not None and error.ctx.command_path != "lbyl-onnx":
        return error.ctx.command_path
    command = next((word for word in given if not word.startswith("-")), None)
    return f"lbyl-onnx {command}" if command in COMMANDS else "lbyl-onnx"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lbyl-onnx {version_of('lbyl-onnx')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Make ONNX models smaller and faster: remove filters, restore what is lost in closed form, validate."""


def _fail(message: str, code: int, prefix: str = "error: ") -> int:
    print_error(prefix + message)
    return code
