"""One rule per operator: which channel labels it makes equal. Importing this package registers them all."""

from . import contraction, elementwise, movement, reduction, reshaping
from .registry import RULES, rule

__all__ = ["RULES", "contraction", "elementwise", "movement", "reduction", "reshaping", "rule"]
