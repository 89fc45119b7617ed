"""Channel labels: integers that name one channel of one tensor axis, and the equalities between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Axis = np.ndarray | None
"""Labels of one tensor axis, int64 of shape (axis length,); None where nothing can ever be removed."""


@dataclass(frozen=True)
class LabelClasses:
    """The labels that are equal, as one class each.

    `class_of`: int64 of shape (labels,), the class of every label. `reasons`: why a class is frozen, by class.
    `coupled`: bool of shape (classes,), True where a residual sum, a product of branches or a Concat was passed.
    """

    class_of: np.ndarray
    reasons: dict[int, str]
    coupled: np.ndarray

    @property
    def count(self) -> int:
        """The number of classes."""
        return len(self.coupled)


class Labels:
    """The store that rules write equalities, freezes and couplings to; `resolve` draws the conclusion."""

    def __init__(self) -> None:
        self._count = 0
        self._equal: list[tuple[np.ndarray, np.ndarray]] = []
        self._frozen: list[tuple[np.ndarray, str]] = []
        self._coupled: list[np.ndarray] = []

    def fresh(self, length: int) -> np.ndarray:
        """New labels for an axis of `length` channels, equal to no other label yet."""
        start, self._count = self._count, self._count + length
        return np.arange(start, self._count)

    def equate(self, left: np.ndarray, right: np.ndarray) -> None:
        """Record that two label arrays (broadcast against one another) name the same channels."""
        left, right = np.broadcast_arrays(left, right)
        differ = left != right
        if differ.any():
            self._equal.append((left[differ], right[differ]))

    def freeze(self, labels: Axis, reason: str) -> None:
        """Record that the channels of `labels` must stay; the first reason given for a channel is the one told."""
        if labels is not None and labels.size:
            self._frozen.append((labels.ravel(), reason))

    def is_frozen(self, labels: np.ndarray) -> bool:
        """Whether all channels of `labels` are known to stay already, without regard to what they equal."""
        frozen = [np.empty(0, np.int64), *(array for array, _ in self._frozen)]
        return bool(np.isin(labels, np.concatenate(frozen)).all())

    def couple(self, labels: Axis) -> None:
        """Record that the channels of `labels` are tied to other branches of the graph."""
        if labels is not None:
            self._coupled.append(labels.ravel())

    def resolve(self) -> LabelClasses:
        """Equal labels as classes: the connected components of everything equated."""
        left = np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in self._equal)]).astype(np.int32)
        right = np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in self._equal)]).astype(np.int32)
        edges = coo_array((np.ones(len(left), bool), (left, right)), shape=(self._count, self._count))
        count, class_of = connected_components(edges, directed=False) if self._count else (0, left)
        reasons: dict[int, str] = {}
        for labels, reason in self._frozen:
            for index in np.unique(class_of[labels]).tolist():
                reasons.setdefault(index, reason)
        coupled = np.zeros(count, bool)
        for labels in self._coupled:
            coupled[class_of[labels]] = True
        return LabelClasses(np.asarray(class_of, np.int64), reasons, coupled)
