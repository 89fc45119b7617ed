"""Whether an output tells samples apart: one that is the same for all of them says nothing of what a cut does."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Changes:
    """What was seen of one output, slice by slice. `samples`: how many; `found`: whether two of them differ where they
    are finite."""

    samples: int = 0
    found: bool = False
    _first: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(self, values: np.ndarray, samples: int) -> None:
        """One more slice; values that do not follow the samples are one row."""
        rows = values if values.ndim and len(values) == samples else values[None]
        if not self.samples:
            self._first = rows[0].copy()
        self.samples += len(rows)
        if not self.found:
            other = self._first.shape != rows.shape[1:]
            self.found = other or bool((np.isfinite(rows) & (rows != self._first)).any())

    @property
    def none(self) -> bool:
        """Whether samples are known to be all alike: there are two of them at least."""
        return self.samples > 1 and not self.found
