"""Linear layers as operators between Euclidean spaces: upper bounds of their norms, whole and unit by unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

MOST_WORK = 3e8
"""Multiplications that the norms at all frequencies of a convolution may take; beyond, coarser bounds stand alone."""
MOST_NUMBERS = 5e6
ROUNDING = 1 + 1e-9
"""What computed norms are multiplied by, so that rounding makes no lower bound of an upper one."""


@dataclass(frozen=True)
class Linear:
    """A fully connected layer or a convolution with zero padding, without its bias.

    `weight`: float64 (outputs, inputs, *kernel); `units`: int64 (inputs,), the unit that each input channel or feature
    belongs to. `space`: sizes of the input's further axes, none for a fully connected layer.
    """

    weight: np.ndarray
    units: np.ndarray
    space: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return int(self.units.max()) + 1

    def with_weight(self, weight: np.ndarray) -> Linear:
        """The same operator with another weight of the same shape."""
        return replace(self, weight=weight)

    @cached_property
    def norm(self) -> float:
        """An upper bound of the operator's norm; of a fully connected layer the norm itself."""
        flat = self.weight.reshape(*self.weight.shape[:2], -1)
        if not self.space:
            return ROUNDING * float(np.linalg.norm(flat[:, :, 0], 2))
        bounds = [
            np.linalg.norm(flat.reshape(len(flat), -1), 2) * math.sqrt(self._overlap),
            np.linalg.norm(np.moveaxis(flat, 1, 0).reshape(flat.shape[1], -1), 2) * math.sqrt(flat.shape[2]),
            sum(np.linalg.norm(flat[:, :, tap], 2) for tap in range(flat.shape[2])),
        ]
        outputs, inputs = flat.shape[:2]
        if self._positions * outputs * inputs * min(outputs, inputs) <= MOST_WORK and self._spectrum is not None:
            bounds.append(np.linalg.norm(self._spectrum, 2, axis=(1, 2)).max())
        return ROUNDING * float(min(bounds))

    @cached_property
    def unit_norms(self) -> np.ndarray:
        """Upper bounds of the norms of the operator on single units, float64 (units,), none above `norm`."""
        if self.space:
            found = self._channel_norms
        elif self.unit_count == self.weight.shape[1]:
            found = np.linalg.norm(self.weight, axis=0)
        else:
            found = np.array([np.linalg.norm(self.weight[:, self.units == unit], 2) for unit in range(self.unit_count)])
        return np.minimum(ROUNDING * found, self.norm)

    @cached_property
    def input_squares(self) -> np.ndarray:
        """Sum of the squared weights that read each input channel or feature, float64 (inputs,)."""
        return (self.weight.reshape(*self.weight.shape[:2], -1) ** 2).sum(axis=(0, 2))

    @property
    def _channel_norms(self) -> np.ndarray:
        """Of a convolution, whose units are channels: as a column of each channel, over all frequencies."""
        flat = self.weight.reshape(*self.weight.shape[:2], -1)
        coarse = np.sqrt(self._overlap) * np.linalg.norm(np.moveaxis(flat, 1, 0), 2, axis=(1, 2))
        if self._spectrum is None:
            return coarse
        return np.minimum(coarse, np.sqrt((np.abs(self._spectrum) ** 2).sum(axis=1).max(axis=0)))

    @cached_property
    def _overlap(self) -> int:
        """In how many windows a position lies at most."""
        return overlap(self.weight.shape[2:], self.strides, self.dilations)

    @cached_property
    def _torus(self) -> tuple[int, ...]:
        """Sizes from which on a circular convolution holds the zero-padded one, nothing meeting itself."""
        reach = (
            (kernel - 1) * dilation for kernel, dilation in zip(self.weight.shape[2:], self.dilations, strict=True)
        )
        return tuple(size + more for size, more in zip(self.space, reach, strict=True))

    @property
    def _positions(self) -> int:
        return math.prod(self._torus)

    @cached_property
    def _spectrum(self) -> np.ndarray | None:
        """The kernel's matrices at all frequencies of that torus, complex (frequencies, outputs, inputs), half of them
        left out as conjugates; None where they are too many.

        Zero-padded, strided convolution is: zeros around the input, circular convolution, picking of positions. The
        first keeps norms and the last does not increase them, so the largest norm at a frequency bounds the operator's.
        """
        outputs, inputs, *kernel = self.weight.shape
        if self._positions * outputs * inputs > MOST_NUMBERS:
            return None
        spread = np.zeros((outputs, inputs, *self._torus))
        places = tuple(slice(0, size * step, step) for size, step in zip(kernel, self.dilations, strict=True))
        spread[(slice(None), slice(None), *places)] = self.weight
        found = np.fft.rfftn(spread, axes=tuple(range(2, spread.ndim)))
        return np.moveaxis(found.reshape(outputs, inputs, -1), -1, 0)


def overlap(kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> int:
    """In how many windows one position lies at most.

    >>> overlap((3, 3), (2, 2), (1, 1)), overlap((2, 2), (2, 2), (1, 1))
    (4, 1)
    """
    sizes = zip(kernel, strides, dilations, strict=True)
    return math.prod(math.ceil(size * math.gcd(stride, dilation) / stride) for size, stride, dilation in sizes)
