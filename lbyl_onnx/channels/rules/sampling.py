"""Operators that read every channel at the same places of space."""

from __future__ import annotations

from ..rule_context import RuleContext
from .registry import rule


@rule("GridSample")
def grid_sample(ctx: RuleContext) -> None:
    """X (N, C, ...) is read at the places in `grid`, the same for all channels."""
    axes = ctx.axes(0)
    for labels in [*axes[2:], *ctx.axes(1)]:
        ctx.freeze(labels, "takes places from them")
    ctx.set([axes[0], axes[1], *([None] * len(axes[2:]))])


@rule("RoiAlign", "MaxRoiPool")
def pool_regions(ctx: RuleContext) -> None:
    """Regions of X (N, C, H, W) become (regions, C, h, w)."""
    axes = ctx.axes(0)
    for labels in [axes[0], *axes[2:], *(labels for slot in ctx.slots[1:] for labels in ctx.axes(slot))]:
        ctx.freeze(labels, "takes regions from them")
    ctx.set([None, axes[1], None, None])
