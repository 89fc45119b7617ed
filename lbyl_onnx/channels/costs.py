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

Term = tuple[list[tuple[str, int]], float]
"""A product: axes, each a tensor or constant and the axis' number, and a constant."""


@dataclass(frozen=True)
class Products:
    """Sums of products: `constants`, float64 (products,), times the lengths of the axes in `axes`, int64 (products,
    most axes), of which the last axis of all stands for no axis."""

    constants: np.ndarray
    axes: np.ndarray

    def each(self, lengths: np.ndarray) -> np.ndarray:
        """float64 (..., products) for `lengths` (..., axes)."""
        return self.constants * lengths[..., self.axes].prod(axis=-1)


class ChannelAxes:
    """The axes of the analysed model that carry channels of some group, and how long they are with fewer units.

    Axes are numbered as `products` meets them; `lengths` knows those met so far. Tensors that have the same labels
    share an axis.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._shapes = {name: array.shape for name, array in analysis.model.weights.items()}
        self._shapes |= {name: facts.shape for name, facts in analysis.probe.tensors.items()}
        self._group_of = np.full(analysis.classes.count, -1)
        for number, group in enumerate(analysis.groups):
            self._group_of[group.classes] = number
        self._units = np.array([group.units for group in analysis.groups], np.float64)
        self._rows: list[np.ndarray] = []
        self._sizes: list[int] = []
        self._known: dict[int, int] = {}

    def all_of(self, name: str) -> list[tuple[str, int]]:
        """Every axis of a tensor or constant."""
        return [(name, axis) for axis in range(len(self._shapes[name]))]

    def products(self, terms: list[Term]) -> Products:
        """The terms, one product each, in which axes that carry no channels are part of the constant."""
        constants, axes = [], []
        for factors, constant in terms:
            numbers = [self._number(*axis) for axis in factors]
            fixed = [axis for axis, number in zip(factors, numbers, strict=True) if number is None]
            constants.append(constant * math.prod(self._shapes[name][axis] for name, axis in fixed))
            axes.append([number for number in numbers if number is not None])
        most = max(map(len, axes), default=0)
        padded = [[*numbers, *[-1] * (most - len(numbers))] for numbers in axes]
        return Products(np.array(constants, np.float64), np.array(padded, np.int64).reshape(len(axes), most))

    def lengths(self, removed: np.ndarray) -> np.ndarray:
        """Lengths of all axes and a last one of 1, float64 (..., axes + 1), once each group has lost `removed` units,
        (..., groups)."""
        per_unit = np.array([*self._rows, np.zeros(len(self._units))])
        return np.array([*self._sizes, 1.0]) - np.asarray(removed, np.float64) @ per_unit.T

    def _number(self, name: str, axis: int) -> int | None:
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


class CostModel:
    """Costs of the analysed model once each group has lost so many units.

    All methods take `removed`, units that go, (..., groups), groups in the analysis' order, and return float64 (...,).
    Exact where every unit of a group has as many entries on an axis, as it nearly always has.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._axes = ChannelAxes(analysis)
        shapes = {name: facts.shape for name, facts in analysis.probe.tensors.items()}
        macs = [mac_factors(node, shapes) for node in analysis.model.proto.graph.node]
        self._macs = self._axes.products([(factors, 1.0) for factors in macs if factors])
        parameters = GraphIndex(analysis.model).parameters()
        self._parameters = self._axes.products([(self._axes.all_of(name), 1.0) for name in parameters])
        stored = {name: float(array.itemsize) for name, array in analysis.model.weights.items() if array.ndim}
        self._bytes = self._axes.products([(self._axes.all_of(name), size) for name, size in stored.items()])

    def macs(self, removed: np.ndarray) -> np.ndarray:
        """Multiply-accumulates of one sample."""
        return self._macs.each(self._axes.lengths(removed)).sum(axis=-1) / self._analysis.probe.batch

    def parameters(self, removed: np.ndarray) -> np.ndarray:
        """Elements of all trained constants."""
        return self._parameters.each(self._axes.lengths(removed)).sum(axis=-1)

    def bytes(self, removed: np.ndarray) -> np.ndarray:
        """Size once written, to within the framing of tensors."""
        whole = self._bytes.each(self._axes.lengths(np.zeros(len(self._analysis.groups)))).sum()
        return self._analysis.model.bytes - whole + self._bytes.each(self._axes.lengths(removed)).sum(axis=-1)
