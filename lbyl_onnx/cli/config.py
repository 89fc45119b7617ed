"""Defaults of options from a file in the working directory: lbyl-onnx.toml, or a table of pyproject.toml."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from ..errors import UsageError, article

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE, PROJECT, TABLE = "lbyl-onnx.toml", "pyproject.toml", "lbyl-onnx"


class Kind(NamedTuple):
    """What a value in TOML may be, and what that is called."""

    types: tuple[type, ...]
    called: str


KINDS: dict[type, Kind] = {
    bool: Kind((bool,), "true or false"),
    int: Kind((int,), "a whole number"),
    float: Kind((int, float), "a number"),
    str: Kind((str,), "a text in quotes"),
    Path: Kind((str,), "a path in quotes"),
}
"""By type of parameter."""
NUMBER_OR_AUTO = Kind((str, int, float), "a number, or auto in quotes")
"""Stands beside the type of a parameter, in `Annotated`, where its text may be a number."""

Command = Callable[..., None]


def defaults(commands: Mapping[str, tuple[Command, Mapping[str, str]]]) -> dict[str, dict[str, Any]]:
    """Values by command and parameter, from one table for each command with options' names as keys; of lbyl-onnx.toml
    alone where both files are there.

    `commands`: by name their function, and the function's parameter for each option. Raises UsageError, which names
    file and key, where a key is unknown or a value of the wrong type.
    """
    name, tables = _read()
    found: dict[str, dict[str, Any]] = {}
    for command, table in tables.items():
        if command not in commands:
            raise UsageError(f"{name}: {command!r} is unknown; expected tables named {', '.join(commands)}")
        if not isinstance(table, Mapping):
            raise UsageError(f"{name}: {command} is no table; expected [{command}] with names of its options as keys")
        function, options = commands[command]
        types = get_type_hints(function, include_extras=True)
        for key, value in table.items():
            if key not in options:
                known = ", ".join(sorted(options))
                raise UsageError(f"{name}: {command}.{key} is no option of {command}; expected one of {known}")
            _check(f"{name}: {command}.{key}", types[options[key]], value)
            found.setdefault(command, {})[options[key]] = value
    return found


def _read() -> tuple[str, Mapping[str, Any]]:
    """The name of the file, and its tables by command."""
    for name in (FILE, PROJECT):
        if Path(name).is_file():
            try:
                content: Any = tomllib.loads(Path(name).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"{name}: cannot be read as TOML ({error}); correct it") from error
            for key in () if name == FILE else ("tool", TABLE):
                content = content.get(key, {})
                if not isinstance(content, Mapping):
                    raise UsageError(f"{name}: {key} is no table; expected [tool.{TABLE}.compress] and the like")
            return name, content
    return FILE, {}


def _check(place: str, hint: Any, value: object) -> None:
    """Raise UsageError where a value is none of a parameter of this type, one of KINDS or a list of it, or None, or of
    the `Kind` that is said beside it."""
    said: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, said = hint.__origin__, hint.__metadata__
    if type(None) in get_args(hint):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    listed = get_origin(hint) is list
    kind = get_args(hint)[0] if listed else hint
    types, expected = next((each for each in said if isinstance(each, Kind)), KINDS[kind])
    values = value if listed and isinstance(value, list) else [value]
    fits = all(isinstance(each, types) and isinstance(each, bool) == (kind is bool) for each in values)
    if not fits or isinstance(value, list) != listed:
        expected = f"a list, each {expected}" if listed else expected
        raise UsageError(f"{place} is {article(type(value).__name__)}; expected {expected}")
