"""How far each output of a compressed model is from the original's, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...calibration.classes import is_classes, probabilities, top1
from ...errors import ValidationFailed
from ...model.graph import GraphIndex
from ..output_errors import OutputErrors
from .statements import Gaps

RESHAPING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
RANGES = {"Softmax": 1.0, "Sigmoid": 1.0, "HardSigmoid": 1.0, "Tanh": 2.0, "Softsign": 2.0}
"""Operators whose results have a bound, and how far two of them can be apart."""
UNBOUNDED = (
    "the graph puts no bound on this output, and a few inputs that no sample shows could move the mean of unbounded "
    "values as far as they like"
)
NO_ROWS, NO_NUMBERS, FREE = (
    "its first axis is not that of the samples",
    "it holds no numbers",
    "its size follows values",
)
PROBABILITIES, DIFFERENCE, RELATIVE = "class probabilities", "mean absolute difference", "relative error"


def bounding_operator(index: GraphIndex, output: str) -> str | None:
    """The operator of RANGES that an output ends in, changes of shape aside; None where it ends in another."""
    maker = index.maker(output)
    while maker is not None and maker.op_type in RESHAPING:
        maker = index.maker(maker.input[0])
    return maker.op_type if maker is not None and maker.op_type in RANGES else None


@dataclass
class OutputGaps(OutputErrors):
    """The gaps of one output, slice by slice. `operator`: what it ends in, see `bounding_operator`. What is measured
    follows from that and from the output's shape and type, not from its values:

    - scores of classes: half the sum of absolute differences of probabilities (total variation), in [0, 1]; scores
      that do not come from a Softmax are put through one
    - other outputs with a bound: the mean absolute difference of a sample's elements
    - all others: the norm of a sample's error over the norm of the original's output
    """

    operator: str | None = None
    measure: str = ""
    gaps: list[np.ndarray] = field(default_factory=list)
    tops: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    by_sample: bool = True

    def add(self, reference: np.ndarray, found: np.ndarray, samples: int) -> None:
        """One more slice, both of the same shape. Raises ValidationFailed where `found` is not finite."""
        self.samples += samples
        self.by_sample &= reference.ndim > 0 and len(reference) == samples
        rows = len(reference) if reference.ndim else 1
        old, new = (value.astype(np.float64).reshape(rows, -1) for value in (reference, found))
        finite = np.isfinite(old)
        if not np.isfinite(new[finite]).all():
            raise ValidationFailed(f"output {self.name!r} of the compressed model is not finite where the original is")
        if not self.by_sample:
            return
        if is_classes(reference, samples):
            softmax = self.operator != "Softmax"
            self.measure = PROBABILITIES + (" (softmax)" if softmax else "")
            before, after = probabilities(reference, softmax), probabilities(found, softmax)
            self.gaps.append(np.abs(before - after).sum(axis=1) / 2)
            self.tops.append((top1(reference), top1(found)))
            return
        old, new = np.where(finite, old, 0.0), np.where(finite, new, 0.0)
        self.measure = DIFFERENCE if self.operator else RELATIVE
        error = np.abs(new - old)
        self.gaps.append(error.mean(axis=1) if self.operator else _relative(error, old))

    def collected(self, labels: np.ndarray | None) -> Gaps:
        """All slices; `labels`: int64, of all samples, None where there are none for this output."""
        gap = np.concatenate(self.gaps)
        if not self.tops:
            most = RANGES.get(self.operator or "")
            return Gaps(self.name, self.measure, gap, most, "" if most else UNBOUNDED)
        before, after = (np.concatenate(side) for side in zip(*self.tops, strict=True))
        losses = None
        if labels is not None:
            losses = (before == labels).astype(int) - (after == labels)
        return Gaps(self.name, self.measure, gap, 1.0, "", before != after, losses)


def _relative(error: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Norms of rows of errors over those of the originals; infinite where only the latter is 0."""
    moved, size = np.linalg.norm(error, axis=1), np.linalg.norm(old, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(moved == 0, 0.0, moved / size)
