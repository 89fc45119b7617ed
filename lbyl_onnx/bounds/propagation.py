"""How far an output moves when parts of the layers before it go, from second moments alone.

A stretch is x -> W1 -> g1 -> W2 -> g2 ... -> WL -> gL -> y. Every W is linear (with a bias), every g is Lipschitz and
treats each unit on its own, or follows the last layer. What goes are inputs of layers, unit by unit, or single weights;
biases stay, and nothing is made up for. Derived in docs/bounds.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UsageError
from .operators import Linear

UNITS, WEIGHTS = "units", "weights"


@dataclass(frozen=True)
class Layer:
    """One layer of a stretch, with the second moments of its input a over the samples that it was read on.

    `second`: E[a aᵀ], float64 (inputs, inputs), for fully connected layers, else None; `energies`: E|a_i|², float64
    (inputs,), over all positions of a channel; `effect`: E|Wa|², without the bias. `lipschitz`: of all between the
    layer before (or the stretch's input) and this one. `producer`: the node that makes the input's units, None for the
    first layer, whose inputs stay.
    """

    name: str
    linear: Linear
    energies: np.ndarray
    effect: float
    second: np.ndarray | None = None
    lipschitz: float = 1.0
    producer: str | None = None

    def population(self, what: str) -> int:
        """How many units, or weights, may go."""
        if what == WEIGHTS:
            return self.linear.weight.size
        return 0 if self.producer is None else self.linear.unit_count

    @cached_property
    def unit_effects(self) -> np.ndarray:
        """E|W_i a_i|² of each unit alone, float64 (units,); of convolutions an upper bound."""
        units, count = self.linear.units, self.linear.unit_count
        if self.second is None:
            return self.linear.unit_norms**2 * self.energies
        gram = self.linear.weight.T @ self.linear.weight * self.second
        return np.array([gram[np.ix_(units == unit, units == unit)].sum() for unit in range(count)])

    def parts(self, what: str) -> tuple[float, float]:
        """The largest squared norm of a part of the layer, and the sum of what the parts do, E|W_i a_i|². Parts are
        units, or single weights, gathered by the input that they read."""
        if what == UNITS:
            return float(self.linear.unit_norms.max() ** 2), float(self.unit_effects.sum())
        squares = self.linear.input_squares
        return float(squares.max()), float(squares @ self.energies)

    def moved_by(self, change: np.ndarray) -> float:
        """E|Va|² for a change V of the weight; of convolutions an upper bound."""
        if self.second is not None:
            return max(float(((change @ self.second) * change).sum()), 0.0)
        touched = np.abs(change).reshape(*change.shape[:2], -1).any(axis=(0, 2))
        return self.linear.with_weight(change).norm ** 2 * float(self.energies[touched].sum())


@dataclass(frozen=True)
class Stretch:
    """Layers from the model's input to one output. `tail`: Lipschitz constant of what follows the last layer; `output`:
    its name; `samples`: over how many the moments were taken."""

    layers: tuple[Layer, ...]
    tail: float
    output: str
    samples: int


@dataclass(frozen=True)
class Bound:
    """`mean_square`: at least E|y' - y|², over samples and, where what goes is drawn, over the draw."""

    mean_square: float

    @property
    def root(self) -> float:
        """At least the root mean square of the gap."""
        return math.sqrt(self.mean_square)

    def probability(self, gap: float) -> float:
        """At least the probability that |y' - y| exceeds `gap` (Markov's inequality for its square)."""
        return min(1.0, self.mean_square / gap**2)

    def gap(self, delta: float) -> float:
        """What |y' - y| exceeds with a probability of at most `delta`, in (0, 1]."""
        return math.sqrt(self.mean_square / delta)


def removed_of(stretch: Stretch, share: float, what: str = UNITS) -> tuple[int, ...]:
    """How many units, or weights, of each layer's input a share of all is, rounded down, at least one staying."""
    if not 0 <= share < 1:
        raise UsageError(f"is {share}; expected a number in [0, 1)", "share")
    if what not in (UNITS, WEIGHTS):
        raise UsageError(f"is {what!r}; expected {UNITS} or {WEIGHTS}", "what")
    populations = (layer.population(what) for layer in stretch.layers)
    return tuple(max(min(math.floor(share * size + 1e-6), size - 1), 0) for size in populations)


def at_random(stretch: Stretch, removed: Sequence[int], what: str = UNITS) -> Bound:
    """The gap when of each layer's input so many units, or of its weights so many, are drawn without replacement, each
    layer on its own and without a look at the samples, and go."""
    moved = 0.0
    for layer, count in zip(stretch.layers, removed, strict=True):
        moved = _thinned(layer, moved * layer.lipschitz**2, count, what)
    return Bound(moved * stretch.tail**2)


def _thinned(layer: Layer, moved: float, removed: int, what: str) -> float:
    """At least E|W'a' - Wa|² once `removed` parts of a layer go; `moved`: at least E|a' - a|² before they do."""
    norm, effect = layer.linear.norm, layer.effect
    if removed == 0:
        return norm**2 * moved
    size = layer.population(what)
    pairs = size * max(size - 1, 1)
    gone, both_gone = removed / size, removed * (removed - 1) / pairs
    left, both_left = 1 - gone, (size - removed) * (size - removed - 1) / pairs
    one_of_each = (size - removed) * removed / pairs
    largest, apart = layer.parts(what)
    carried = ((left - both_left) * largest + both_left * norm**2) * moved
    lost = (gone - both_gone) * apart + both_gone * effect
    product = min(
        math.sqrt(carried * lost),
        one_of_each * math.sqrt(moved) * (norm * math.sqrt(effect) + math.sqrt(largest * apart)),
    )
    found = carried + lost + 2 * product
    if what == UNITS:
        found = min(found, norm**2 * (left * moved + gone * float(layer.energies.sum())))
    return found


def as_chosen(stretch: Stretch, weights: Sequence[np.ndarray]) -> Bound:
    """The gap when the layers have these weights in place of their own, however they were chosen."""
    moved = 0.0
    for layer, weight in zip(stretch.layers, weights, strict=True):
        before = layer.linear.with_weight(weight).norm * layer.lipschitz * math.sqrt(moved)
        moved = (before + math.sqrt(layer.moved_by(weight - layer.linear.weight))) ** 2
    return Bound(moved * stretch.tail**2)


def without_units(stretch: Stretch, removed: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Weights without units of their input; `removed`: bool (units,) of each layer."""
    found = []
    for layer, gone in zip(stretch.layers, removed, strict=True):
        kept = ~np.asarray(gone, bool)[layer.linear.units]
        found.append(layer.linear.weight * kept.reshape(1, -1, *[1] * len(layer.linear.space)))
    return found


def without_smallest_weights(stretch: Stretch, removed: Sequence[int]) -> list[np.ndarray]:
    """Weights of which so many, the least by magnitude in each layer, are 0."""
    found = []
    for layer, count in zip(stretch.layers, removed, strict=True):
        weight = layer.linear.weight.copy()
        weight.reshape(-1)[np.argsort(np.abs(weight), axis=None, kind="stable")[:count]] = 0
        found.append(weight)
    return found


def without_smallest_units(stretch: Stretch, removed: Sequence[int]) -> list[np.ndarray]:
    """Weights without so many units of each layer's input, those that the layer before makes with the least norm."""
    gone = [np.zeros(layer.linear.unit_count, bool) for layer in stretch.layers]
    for before, mask, count in zip(stretch.layers, gone[1:], removed[1:], strict=False):
        norms = np.linalg.norm(before.linear.weight.reshape(len(before.linear.weight), -1), axis=1)
        mask[np.argsort(norms, kind="stable")[:count]] = True
    return without_units(stretch, gone)


def greatest_share(stretch: Stretch, gap: float, delta: float, what: str = UNITS, steps: int = 200) -> float:
    """The greatest share of units, or weights, drawn at random, such that up to it, in `steps` equal steps,
    |y' - y| exceeds `gap` with a probability of at most `delta`; 0 where no share does."""
    if not gap > 0 or not 0 < delta <= 1:
        raise UsageError(f"gap is {gap} and delta {delta}; expected a gap above 0 and a delta above 0, at most 1")
    found = 0.0
    for step in range(1, steps):
        if at_random(stretch, removed_of(stretch, step / steps, what), what).probability(gap) > delta:
            break
        found = step / steps
    return found
