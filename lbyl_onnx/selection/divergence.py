"""How far a model's outputs move from the original's on the samples that judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..calibration.changes import ROUNDED_DB, Changes, energy_share
from ..calibration.classes import are_probabilities, class_outputs, divergence, is_sure, probabilities
from ..calibration.positions import information, position_classes
from ..errors import MeasurementFailed
from ..model.session import rows_of
from ..model.tensors import is_floating

Batch = Mapping[str, Any]
Lost = Callable[[int, np.ndarray], float]
"""What an output lost in the batch of a number, summed over its samples: of the values found for it."""


@dataclass(frozen=True)
class _Output:
    """One output. `shapes`: the original's, of each batch; `lost`: what others lose; `whole`: what to divide it by, for
    each sample."""

    shapes: Sequence[tuple[int, ...]]
    lost: Lost
    whole: float


class Original:
    """The original's outputs on some `batches` of samples, and how far others are from them.

    The divergence of classes is that of their probabilities (Kullback-Leibler, the mean over samples, in nats), of
    classes at each position the share of what the answers tell of their samples that is lost, and of other outputs the
    error's share of what tells samples apart.
    """

    def __init__(self, batches: Sequence[Batch], values: Iterable[Batch]) -> None:
        """`values`: the outputs of each batch. Raises MeasurementFailed where none tells anything."""
        self._samples = [rows_of(batch) for batch in batches]
        numeric = [{name: each for name, each in found.items() if _is_compared(each)} for found in values]
        first = numeric[0]
        classes = class_outputs(first, self._samples[0])
        self._outputs = {}
        for name in first:
            output = self._output(batches[0], [found[name] for found in numeric], name in classes)
            if output is not None:
                self._outputs[name] = output
        if not self._outputs:
            raise MeasurementFailed("no output is a tensor of floating-point numbers that differs between samples")

    @property
    def names(self) -> list[str]:
        """The outputs that tell samples apart."""
        return list(self._outputs)

    def divergence(self, found: Iterable[Batch], names: Sequence[str]) -> float:
        """How far the outputs `names` moved, on average over them; infinite where it is not a number."""
        lost, whole = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for number, (batch, samples) in enumerate(zip(found, self._samples, strict=True)):
            for name in names:
                output = self._outputs[name]
                if batch[name].shape == output.shapes[number]:
                    lost[name] += output.lost(number, batch[name])
                    whole[name] += output.whole * samples
        shares = [lost[name] / whole[name] for name in names if whole[name] > 0]
        return float(np.nan_to_num(np.mean(shares), nan=np.inf, posinf=np.inf)) if shares else 0.0

    def _output(self, inputs: Batch, values: list[np.ndarray], classes: bool) -> _Output | None:
        """One output, by what it looks like in the first batch; None where it is the same for all samples."""
        changes = Changes()
        for value, samples in zip(values, self._samples, strict=True):
            changes.add(value, samples)
        if changes.none:
            return None
        found = self._of_classes(values) if classes else None
        return found or self._at_positions(inputs, values) or self._of_numbers(values, changes.variation)

    def _of_classes(self, values: list[np.ndarray]) -> _Output | None:
        """None where the original is not sure of them."""
        softmax = not are_probabilities(values[0])
        answers = [probabilities(value, softmax) for value in values]
        sure = float(np.concatenate([each.max(axis=1) for each in answers]).mean())
        if not is_sure(sure, values[0].shape[1]):
            return None
        return _Output(
            _shapes(values), lambda number, found: divergence(answers[number], probabilities(found, softmax)), 1.0
        )

    def _at_positions(self, inputs: Batch, values: list[np.ndarray]) -> _Output | None:
        """None where there are no classes at positions, or these tell nothing of their samples."""
        positions = position_classes(values[0], self._samples[0], inputs)
        if positions is None:
            return None
        answers = [list(positions.probabilities(value)) for value in values]
        told = information(chain.from_iterable(answers))
        if not told:
            return None
        return _Output(
            _shapes(values),
            lambda number, found: positions.divergence(answers[number], found),
            told / sum(self._samples),
        )

    def _of_numbers(self, values: list[np.ndarray], variation: float | None) -> _Output:
        """`variation`: what of the energy tells samples apart, where that is known."""
        energy = sum(_energy(value, 0.0) for value in values)
        told = energy if variation is None else max(variation, energy_share(ROUNDED_DB) * energy)
        return _Output(_shapes(values), lambda number, found: _energy(values[number], found), told / sum(self._samples))


def _shapes(values: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    return [value.shape for value in values]


def _is_compared(value: object) -> bool:
    return isinstance(value, np.ndarray) and is_floating(value)


def _energy(before: np.ndarray, after: np.ndarray | float) -> float:
    """Of the difference between values, where those before are finite."""
    old = before.astype(np.float64)
    finite = np.isfinite(old)
    return float(np.square(np.asarray(after, np.float64) - old)[finite].sum())
