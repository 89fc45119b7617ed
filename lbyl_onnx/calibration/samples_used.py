"""Which samples a compression has seen, as short hashes that travel with the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..model.model import Model
from ..model.session import rows_of

KEY = "lbyl_onnx.samples"
"""Of the model's metadata: how many samples, and their hashes one after the other."""
MOST = 4096
"""Hashes that are kept at most."""
DIGITS = 16


@dataclass(frozen=True)
class SamplesUsed:
    """`count`: how many different samples; `hashes`: of those the MOST least ones, ascending, which is a random part of
    them where there are more."""

    count: int = 0
    hashes: tuple[str, ...] = ()

    def __or__(self, other: SamplesUsed) -> SamplesUsed:
        both = sorted({*self.hashes, *other.hashes})
        beyond = max(self.count - len(self.hashes), 0) + max(other.count - len(other.hashes), 0)
        return SamplesUsed(len(both) + beyond, tuple(both[:MOST]))

    @property
    def complete(self) -> bool:
        """Whether every sample has its hash here."""
        return self.count == len(self.hashes)

    def write(self, model: Model) -> None:
        """Enter it in the metadata of a model, beside what that says already; nothing where no sample was used."""
        used = self | read_samples_used(model)
        if used.count:
            entries = model.proto.metadata_props
            entry = next((each for each in entries if each.key == KEY), None) or entries.add(key=KEY)
            entry.value = f"{used.count} {''.join(used.hashes)}"


def samples_used(arrays: Iterable[Mapping[str, np.ndarray]]) -> SamplesUsed:
    """What sets of inputs, first axis = samples, leave of themselves."""
    found = sorted({each for inputs in arrays for each in sample_hashes(inputs)})
    return SamplesUsed(len(found), tuple(found[:MOST]))


def read_samples_used(model: Model) -> SamplesUsed:
    """What a model's metadata says; nothing where it says nothing that can be read."""
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == KEY), "")
    count, _, joined = text.partition(" ")
    if not count.isdecimal():
        return SamplesUsed()
    hashes = tuple(joined[start : start + DIGITS] for start in range(0, len(joined), DIGITS))
    return SamplesUsed(max(int(count), len(hashes)), hashes)


def sample_hashes(inputs: Mapping[str, np.ndarray]) -> list[str]:
    """A hash of each sample's values, as the model is fed them: DIGITS hexadecimal digits of BLAKE2b over all inputs
    that have a row for each sample."""
    rows = rows_of(inputs)
    arrays = [(name, np.asarray(inputs[name])) for name in sorted(inputs)]
    arrays = [(name, array) for name, array in arrays if array.ndim and len(array) == rows]

    def of_row(row: int) -> str:
        digest = hashlib.blake2b(digest_size=DIGITS // 2)
        for name, array in arrays:
            digest.update(f"{name} {array.dtype} {array.shape[1:]} ".encode())
            digest.update(np.ascontiguousarray(array[row]).tobytes())
        return digest.hexdigest()

    return [of_row(row) for row in range(rows)]
