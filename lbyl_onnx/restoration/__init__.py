"""Making up for removed channels, from weights or from activations. Importing this room registers every restoration."""

from . import from_activations, from_weights
from .methods import RESTORATIONS

__all__ = ["RESTORATIONS", "from_activations", "from_weights"]
