"""How many units go, and which. Importing this room registers every importance criterion."""

from . import elimination, importance
from .criteria import CRITERIA

__all__ = ["CRITERIA", "elimination", "importance"]
