"""Defaults of options from a file in the working directory: lbyl-onnx.toml, or a table of pyproject.toml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, article

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE, PROJECT, TABLE = "lbyl-onnx.toml", "pyproject.toml", "lbyl-onnx"
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "boolean": ((bool,), "true or false"),
    "integer": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
}
TEXT: tuple[tuple[type, ...], str] = ((str,), "a text in quotes")


def defaults(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by command and parameter, from one table for each of the `commands` with options' names as keys; of
    lbyl-onnx.toml alone where both files are there. Raises UsageError, which names file and key, where a key is unknown
    or a value of the wrong type."""
    name, tables = _read()
    found: dict[str, dict[str, Any]] = {}
    for command, table in tables.items():
        if command not in commands:
            raise UsageError(f"{name}: {command!r} is unknown; expected tables named {', '.join(commands)}")
        if not isinstance(table, Mapping):
            raise UsageError(f"{name}: {command} is no table; expected [{command}] with names of its options as keys")
        options = {
            option.removeprefix("--"): parameter
            for parameter in commands[command].params
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        }
        for key, value in table.items():
            if key not in options:
                known = ", ".join(sorted(options))
                raise UsageError(f"{name}: {command}.{key} is no option of {command}; expected one of {known}")
            _check(f"{name}: {command}.{key}", options[key], value)
            found.setdefault(command, {})[options[key].name] = value
    return found


def _read() -> tuple[str, Mapping[str, Any]]:
    """The name of the file, and its tables by command."""
    for name in (FILE, PROJECT):
        if Path(name).is_file():
            try:
                content: Any = tomllib.loads(Path(name).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"{name}: cannot be read as TOML ({error}); correct it") from error
            tables = content if name == FILE else content.get("tool", {}).get(TABLE, {})
            if not isinstance(tables, Mapping):
                raise UsageError(f"{name}: tool.{TABLE} is no table; expected one for each command")
            return name, tables
    return FILE, {}


def _check(place: str, parameter: Any, value: object) -> None:
    """Raise UsageError where a value cannot be one of the parameter's."""
    types, expected = KINDS.get(parameter.type.name, TEXT)
    if parameter.multiple:
        expected = f"a list, each {expected}"
    values = value if parameter.multiple and isinstance(value, list) else [value]
    fits = all(isinstance(each, types) and isinstance(each, bool) == (bool in types) for each in values)
    if not fits or isinstance(value, list) != parameter.multiple:
        raise UsageError(f"{place} is {article(type(value).__name__)}; expected {expected}")
