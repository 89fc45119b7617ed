"""Operators that read every channel at the same places of space."""

from __future__ import annotations

from ..labelling import Site
from .registry import rule


@rule("GridSample")
def grid_sample(site: Site) -> None:
    """X (N, C, ...) is read at the places in `grid`, the same for all channels."""
    axes = site.axes(0)
    for labels in [*axes[2:], *site.axes(1)]:
        site.freeze(labels, "takes places from them")
    site.set([axes[0], axes[1], *([None] * len(axes[2:]))])


@rule("RoiAlign", "MaxRoiPool")
def pool_regions(site: Site) -> None:
    """Regions of X (N, C, H, W) become (regions, C, h, w)."""
    axes = site.axes(0)
    for labels in [axes[0], *axes[2:], *(labels for slot in site.slots[1:] for labels in site.axes(slot))]:
        site.freeze(labels, "takes regions from them")
    site.set([None, axes[1], None, None])
