"""What a model would cost with fewer units, from labels alone, without cutting it.

Every cost is a sum of products of axis lengths: a convolution's multiply-accumulates are the sizes of its output times
its inputs at every tap, a constant's elements its own sizes. An axis that carries channels of several groups loses, for
every unit of each of them that goes, as many entries as the unit has there. So a producer that loses filters makes its
consumers cheaper too, and both at once are counted right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..model.graph import GraphIndex
from .groups import Analysis
from .macs import mac_factors


@dataclass(frozen=True)
class _Products:
    """Sums of products: `constants`, float64 (products,), times the lengths of the axes in `axes`, int64 (products,
    most axes), of which the last axis of all stands for no axis."""

    constants: np.ndarray
    axes: np.ndarray

    def each(self, lengths: np.ndarray) -> np.ndarray:
        """float64 (..., products) for `lengths` (..., axes)."""
        return self.constants * lengths[..., self.axes].prod(axis=-1)


class CostModel:
    """Costs of the analysed model once each group has lost so many units.

    All methods take `removed`, units that go, (..., groups), groups in the analysis' order, and return float64 (...,).
    Exact where every unit of a group has as many entries on an axis, as it nearly always has.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._group_of = np.full(analysis.classes.count, -1)
        for number, group in enumerate(analysis.groups):
            self._group_of[group.classes] = number
        self._units = np.array([group.units for group in analysis.groups], np.float64)
        self._rows: list[np.ndarray] = []
        self._sizes: list[int] = []
        self._known: dict[int, int] = {}
        shapes = {name: facts.shape for name, facts in analysis.probe.tensors.items()}
        self._nodes = [mac_factors(node, shapes) for node in analysis.model.proto.graph.node]
        self._macs = self._products([(factors, 1.0) for factors in self._nodes if factors], shapes)
        weights = analysis.model.weights
        for name, array in weights.items():
            shapes.setdefault(name, array.shape)
        parameters = GraphIndex(analysis.model).parameters()
        self._parameters = self._products([(self._axes_of(name), 1.0) for name in parameters], shapes)
        stored = [(self._axes_of(name), float(array.itemsize)) for name, array in weights.items() if array.ndim]
        self._bytes = self._products(stored, shapes)
        self._per_unit = np.array([*self._rows, np.zeros(len(self._units))]).reshape(-1, len(self._units))
        self._lengths = np.array([*self._sizes, 1.0])

    def macs(self, removed: np.ndarray) -> np.ndarray:
        """Multiply-accumulates of one sample."""
        return self._macs.each(self._left(removed)).sum(axis=-1) / self._analysis.probe.batch

    def parameters(self, removed: np.ndarray) -> np.ndarray:
        """Elements of all trained constants."""
        return self._parameters.each(self._left(removed)).sum(axis=-1)

    def bytes(self, removed: np.ndarray) -> np.ndarray:
        """Size once written, to within the framing of tensors."""
        whole = self._bytes.each(self._lengths).sum()
        return self._analysis.model.bytes - whole + self._bytes.each(self._left(removed)).sum(axis=-1)

    def _left(self, removed: np.ndarray) -> np.ndarray:
        """Lengths of all axes."""
        return self._lengths - np.asarray(removed, np.float64) @ self._per_unit.T

    def _axes_of(self, name: str) -> list[tuple[str, int]]:
        return [(name, axis) for axis in range(self._analysis.model.weights[name].ndim)]

    def _products(
        self, terms: list[tuple[list[tuple[str, int]], float]], shapes: dict[str, tuple[int, ...]]
    ) -> _Products:
        constants, axes = [], []
        for factors, constant in terms:
            own = [(axis, number) for axis in factors if (number := self._axis(*axis)) is not None]
            fixed = [axis for axis in factors if axis not in dict(own)]
            constants.append(constant * math.prod(shapes[name][axis] for name, axis in fixed))
            axes.append([number for _, number in own])
        most = max(map(len, axes), default=0)
        padded = [[*numbers, *[-1] * (most - len(numbers))] for numbers in axes]
        return _Products(np.array(constants, np.float64), np.array(padded, np.int64).reshape(len(axes), most))

    def _axis(self, name: str, axis: int) -> int | None:
        """The number of an axis that carries channels of some group; None where it carries none."""
        labels = (self._analysis.labelling.axes.get(name) or {axis: None})[axis]
        if labels is None:
            return None
        if id(labels) not in self._known:
            groups = self._group_of[self._analysis.classes.class_of[labels]]
            counts = np.bincount(groups[groups >= 0], minlength=len(self._units))
            self._known[id(labels)] = len(self._rows)
            self._rows.append(counts / self._units)
            self._sizes.append(len(labels))
        return self._known[id(labels)]
