"""The JSON form of records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

import cattrs
import numpy as np

Record = TypeVar("Record")


def to_json(record: object) -> str:
    """A record as indented JSON, which has no floats that are not finite: minus infinity is the text "-Infinity", the
    others are null."""
    return json.dumps(_finite(_CONVERTER.unstructure(record)), indent=2)


def from_json(kind: type[Record], text: str) -> Record:
    """The record of a kind that `to_json` wrote; null stands for infinity where a number must be. Raises ValueError."""
    try:
        return _CONVERTER.structure(json.loads(text), kind)
    except (cattrs.errors.BaseValidationError, KeyError, TypeError) as error:
        raise ValueError(f"not a {kind.__name__.lower()} of this version: {error}") from error


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return "-Infinity" if value < 0 else None
    return value


_CONVERTER = cattrs.Converter()
_CONVERTER.register_structure_hook(
    float | str | None, lambda value, _: value if value is None or isinstance(value, str) else float(value)
)
_CONVERTER.register_structure_hook(float, lambda value, _: float("inf") if value is None else float(value))
