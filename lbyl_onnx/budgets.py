"""Budgets: what a result may cost at most, as a share of the original or in a unit."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import UsageError, article

LATENCY, DROP = "latency", "drop"
BUDGETS = ("macs", "params", "bytes", LATENCY, DROP)
UNITS = {
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "bytes": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "drop": {"": 1.0, "%": 1.0},
}
EXPECTED = {
    "macs": "a share of the original's such as 0.8, or a number such as 300M",
    "params": "a share of the original's such as 0.7, or a number such as 2M",
    "bytes": "a share of the original's such as 0.5, or a size such as 4MB",
    "latency": "a share of the original's such as 0.75, or a time such as 5ms",
    "drop": "points of accuracy such as 1%",
}


_FORM = re.compile(r"(\d{1,3}(?:,\d{3})+|\d*\.?\d+(?:e[+-]?\d+)?|\d+\.)\s*([a-z%]*)")


@dataclass(frozen=True)
class Budget:
    """`name`: one of BUDGETS; `value`: with `share`, of the original's, in (0, 1], else multiply-accumulates, elements,
    bytes, milliseconds or points of accuracy."""

    name: str
    value: float
    share: bool

    def __str__(self) -> str:
        unit = {"bytes": " bytes", "latency": " ms", "drop": "%"}.get(self.name, "")
        return f"{self.name}={self.value:g}" if self.share else f"{self.name}={self.value:,.10g}{unit}"

    def most(self, whole: float) -> float:
        """The limit where the original's cost is `whole`."""
        return self.value * whole if self.share else self.value


DEFAULT = (Budget(DROP, 1.0, share=False),)
"""What holds where nothing else is asked for."""


def budgets(given: Mapping[str, float | str] | None) -> tuple[Budget, ...]:
    """Budgets from values by name, such as {"macs": 0.8, "bytes": "4MB"}. Raises UsageError."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise UsageError(
            f'is {article(type(given).__name__)}; expected values by name, as in {{"macs": 0.8}}', "target"
        )
    return tuple(budget(name, value) for name, value in given.items())


def budget(name: str, given: float | str) -> Budget:
    """One budget. Raises UsageError where the name is none of BUDGETS or the value cannot be one."""
    if name not in BUDGETS:
        raise UsageError(f"{name!r} is unknown; expected one of {', '.join(BUDGETS)}", "target")
    known, found = UNITS[name], _FORM.fullmatch(str(given).strip().lower())
    number = isinstance(given, str) or (isinstance(given, numbers.Real) and not isinstance(given, bool))
    value = float(found[1].replace(",", "")) if found and number else -1.0
    unit = found[2] if found else ""
    whole = value * known.get(unit, 1.0)
    possible = 0 <= whole <= 100 if name == DROP else 0 < whole < float("inf")
    if not possible or (unit and unit not in known):
        raise UsageError(f"{name}={given} is no budget; expected {EXPECTED[name]}", "target")
    share = name != DROP and not unit and value <= 1
    if not share and not unit and "" not in known and isinstance(given, str):
        raise UsageError(f"{name}={given} has no unit; expected {EXPECTED[name]}", "target")
    return Budget(name, value if share else whole, share)
