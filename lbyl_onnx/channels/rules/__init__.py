"""One rule per operator: which channel labels it makes equal. Importing this package registers them all."""

from . import attention, contraction, elementwise, movement, recurrent, reduction, reshaping, sampling
from .registry import RULES, rule

__all__ = [
    "RULES",
    "attention",
    "contraction",
    "elementwise",
    "movement",
    "recurrent",
    "reduction",
    "reshaping",
    "rule",
    "sampling",
]
