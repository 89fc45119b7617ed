"""What pruning at random or by magnitude can cost at most, said before anything is cut."""

from .lipschitz import NotCovered
from .propagation import (
    UNITS,
    WEIGHTS,
    Bound,
    Layer,
    Stretch,
    as_chosen,
    at_random,
    greatest_share,
    removed_of,
    without_smallest_units,
    without_smallest_weights,
    without_units,
)
from .reading import read_stretch

__all__ = [
    "UNITS",
    "WEIGHTS",
    "Bound",
    "Layer",
    "NotCovered",
    "Stretch",
    "as_chosen",
    "at_random",
    "greatest_share",
    "read_stretch",
    "removed_of",
    "without_smallest_units",
    "without_smallest_weights",
    "without_units",
]
