"""What has to change besides weights when channels go: sizes and indices that the graph keeps as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class SetSizes:
    """Entries of an integer vector, each of which becomes the number of its labels that are kept.

    The vector is input `slot` of node number `node` (an int) or the attribute `slot` (a name). `value` is its
    value in the original graph and `static` says which entries no input size changes; `counts` maps an entry to the
    labels to count. Entries in `pinned` were computed from the count of their labels and keep their original value.
    `replaces` names an attribute that says the same and has to go (Split's num_outputs).
    """

    node: int
    slot: int | str
    value: np.ndarray | None
    static: np.ndarray | None = None
    counts: dict[int, np.ndarray] = field(default_factory=dict)
    pinned: dict[int, np.ndarray] = field(default_factory=dict)
    replaces: str | None = None


@dataclass(frozen=True)
class Renumber:
    """A constant index vector (input `slot` of node number `node`) into an axis with these labels: indices of removed
    channels go, the others are counted anew."""

    node: int
    slot: int
    indices: np.ndarray
    labels: np.ndarray


Edit = SetSizes | Renumber
