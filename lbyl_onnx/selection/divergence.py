"""How far a model's outputs move from the original's on the samples that judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration.changes import ROUNDED_DB, Changes, energy_share
from ..calibration.classes import are_probabilities, class_outputs, divergence, is_sure, probabilities
from ..calibration.positions import information, position_classes
from ..errors import MeasurementFailed
from ..model.session import rows_of
from ..model.tensors import is_floating

Batch = Mapping[str, Any]
Lost = Callable[[np.ndarray, np.ndarray], float]
"""What an output lost, summed over the samples of a batch: of the original's values and of those found."""


@dataclass(frozen=True)
class _Output:
    """One output. `values`: the original's, of each batch; `lost`: what others lose; `whole`: what to divide it by,
    for each sample."""

    values: Sequence[np.ndarray]
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
                if batch[name].shape == output.values[number].shape:
                    lost[name] += output.lost(output.values[number], batch[name])
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
        if classes:
            softmax = not are_probabilities(values[0])
            sure = np.concatenate([probabilities(value, softmax).max(axis=1) for value in values]).mean()
            if is_sure(float(sure), values[0].shape[1]):
                return _Output(values, lambda *both: divergence(*(probabilities(each, softmax) for each in both)), 1.0)
        positions = position_classes(values[0], self._samples[0], inputs)
        told = information(positions, values) if positions else 0.0
        if positions and told:
            return _Output(values, positions.divergence, told / sum(self._samples))
        energy = sum(_energy(value, 0.0) for value in values)
        told = energy if changes.variation is None else max(changes.variation, energy_share(ROUNDED_DB) * energy)
        return _Output(values, lambda before, after: _energy(before, after), told / sum(self._samples))


def _is_compared(value: object) -> bool:
    return isinstance(value, np.ndarray) and is_floating(value)


def _energy(before: np.ndarray, after: np.ndarray | float) -> float:
    """Of the difference between values, where those before are finite."""
    old = before.astype(np.float64)
    finite = np.isfinite(old)
    return float(np.square(np.asarray(after, np.float64) - old)[finite].sum())
