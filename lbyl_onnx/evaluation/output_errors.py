"""How far one output of two models differs, summed up slice by slice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from ..calibration.changes import ROUNDED_DB, Changes, energy_share
from ..calibration.classes import is_classes
from ..errors import ValidationFailed, counted
from .class_scores import ClassScores, PositionScores
from .records import OutputComparison

CHUNK = 2**20


@dataclass
class OutputErrors:
    """Running sums over one output, in float64."""

    name: str
    shape: tuple[int, ...] = ()
    samples: int = 0
    elements: int = 0
    largest: float = 0.0
    total: float = 0.0
    magnitude: float = 0.0
    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    classes: ClassScores | None = field(default_factory=ClassScores)
    positions: PositionScores | None = None
    changes: Changes = field(default_factory=Changes)

    def add(self, reference: np.ndarray, found: np.ndarray, samples: int) -> None:
        """One more slice, both of the same shape. Raises ValidationFailed where `found` is not finite."""
        self.samples += samples
        self.changes.add(reference, samples)
        follows = reference.ndim > 0 and len(reference) == samples
        self.shape = (self.samples, *reference.shape[1:]) if follows else reference.shape
        for start in range(0, reference.size, CHUNK):
            old, new = (value.reshape(-1)[start : start + CHUNK].astype(np.float64) for value in (reference, found))
            finite = np.isfinite(old)
            broken = int(np.count_nonzero(finite & ~np.isfinite(new)))
            if broken:
                raise ValidationFailed(
                    f"output {self.name!r} of the compressed model is not finite at {broken} of "
                    f"{counted(len(old), 'element')} where the original is"
                )
            self._sum(old[finite], new[finite])
        if self.classes is not None and is_classes(reference, samples):
            self.classes.add(reference, found)
        else:
            self.classes = None
        if self.positions is not None:
            self.positions.add(reference, found)

    def _decibels(self, energy: float) -> float:
        """An energy over that of the error."""
        ratio = energy / self.noise if self.noise else math.inf
        return 10 * math.log10(ratio) if ratio else -math.inf

    def _sum(self, old: np.ndarray, new: np.ndarray) -> None:
        error = np.abs(old - new)
        self.elements += error.size
        self.largest = max(self.largest, float(error.max(initial=0)))
        self.total += float(error.sum())
        self.magnitude += float(np.abs(old).sum())
        self.noise += float(error @ error)
        self.signal += float(old @ old)
        self.power += float(new @ new)
        self.product += float(old @ new)

    @property
    def silent(self) -> bool:
        """Whether it says nothing of a result: it is that of the original, but the same for all samples."""
        return self.changes.none and self.noise <= energy_share(ROUNDED_DB) * self.signal

    def result(self) -> OutputComparison:
        variation = self.changes.variation
        alone = math.inf if self.total else 0.0
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        return OutputComparison(
            name=self.name,
            shape=self.shape,
            max_error=self.largest,
            mean_error=self.total / max(self.elements, 1),
            sqnr_db=self._decibels(self.signal),
            variation_db=None if variation is None else self._decibels(variation),
            cosine=min(self.product / norms, 1.0) if norms else float(self.signal == self.power),
            ware=self.total / self.magnitude if self.magnitude else alone,
            classes=None if self.classes is None else self.classes.result(),
            positions=None if self.positions is None else self.positions.result(),
        )


def is_numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind in "biuf" or value.dtype == ml_dtypes.bfloat16)
