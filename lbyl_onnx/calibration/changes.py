"""What of an output tells samples apart: what all of them have in common says nothing of what a cut does."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

CHUNK = 2**20
"""Elements that are looked at at once."""
ROUNDED_DB = 80.0
"""Signal over error from which on an error is taken for rounding: a ten-thousandth of the values."""


def energy_share(sqnr_db: float) -> float:
    """Error power over signal power."""
    return float(10 ** (-sqnr_db / 10))


@dataclass
class Changes:
    """What was seen of one output, slice by slice. `samples`: how many; `found`: whether two of them differ where they
    are finite."""

    samples: int = 0
    found: bool = False
    _first: np.ndarray = field(default_factory=lambda: np.empty(0))
    _moved: np.ndarray = field(default_factory=lambda: np.empty(0))
    _squares: float = 0.0
    _of_one_size: bool = True

    def add(self, values: np.ndarray, samples: int) -> None:
        """One more slice; values that do not follow the samples are one row."""
        rows = values if values.ndim and len(values) == samples else values[None]
        if not self.samples:
            self._first, self._moved = rows[0].copy(), np.zeros(rows.shape[1:])
        self.samples += len(rows)
        if self._first.shape != rows.shape[1:]:
            self.found, self._of_one_size = True, False
            return
        start = np.where(np.isfinite(self._first), self._first, 0).astype(np.float64)
        at_once = max(CHUNK // max(start.size, 1), 1)
        for part in (rows[at : at + at_once] for at in range(0, len(rows), at_once)):
            differs = np.isfinite(part) & (part != self._first)
            self.found |= bool(differs.any())
            away = np.where(differs, part, start).astype(np.float64) - start
            self._moved += away.sum(axis=0)
            self._squares += float(np.square(away).sum())

    @property
    def none(self) -> bool:
        """Whether samples are known to be all alike: there are two of them at least."""
        return self.samples > 1 and not self.found

    @property
    def variation(self) -> float | None:
        """The energy of what differs between samples: all elements' variances over them, summed, times their number.
        None where there is one sample, or sizes differ."""
        if self.samples < 2 or not self._of_one_size:
            return None
        spread = self._squares - float(np.square(self._moved).sum()) / self.samples
        return max(spread, 0.0) * self.samples / (self.samples - 1)
