"""Operators that see many elements of an axis at once: pooling over space, reductions, normalisations."""

from __future__ import annotations

import numpy as np

from ..rule_context import RuleContext, RuleDoesNotApply
from .registry import rule

POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split()
REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
""".split()


@rule(*POOLS)
def pool(ctx: RuleContext) -> None:
    """Channels go through one by one; space is pooled."""
    axes = ctx.axes(0)
    for axis in axes[2:]:
        ctx.freeze(axis, "pools over them")
    if len(ctx.node.outputs) > 1 and ctx.node.outputs[1].name:
        ctx.freeze(axes[1], "counts them in its indices")
    for slot in range(len(ctx.node.outputs)):
        ctx.set([*axes[:2], *([None] * len(axes[2:]))], slot)


@rule(*REDUCTIONS)
def reduce(ctx: RuleContext) -> None:
    """Reduced axes see all their channels at once, so those stay; the others pass."""
    chosen = ctx.ints(1, "axes")
    rank = len(ctx.axes(0))
    if chosen is None or not chosen.size:
        chosen = np.arange(0 if ctx.attr("noop_with_empty_axes", 0) else rank)
    _collapse(ctx, {int(axis) % rank for axis in chosen})


@rule("ArgMax", "ArgMin")
def arg_reduce(ctx: RuleContext) -> None:
    """As a reduction over one axis."""
    _collapse(ctx, {ctx.attr("axis", 0) % len(ctx.axes(0))})


def _collapse(ctx: RuleContext, reduced: set[int]) -> None:
    axes = []
    for axis, labels in enumerate(ctx.axes(0)):
        if axis in reduced:
            ctx.freeze(labels, "reduces over them")
        if axis not in reduced:
            axes.append(labels)
        elif ctx.attr("keepdims", 1):
            axes.append(None)
    ctx.set(axes)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(ctx: RuleContext) -> None:
    """The normalised axis stays; before opset 13 that is every axis from `axis` on."""
    rank = len(ctx.axes(0))
    first = ctx.attr("axis", -1 if ctx.opset >= 13 else 1) % rank
    _normalise(ctx, {first} if ctx.opset >= 13 else set(range(first, rank)))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(ctx: RuleContext) -> None:
    """Every axis from `axis` on is normalised as one and stays.

    An exact rewrite (centring and rescaling folded into the neighbouring weights) would take this rule's place.
    """
    rank = len(ctx.axes(0))
    _normalise(ctx, set(range(ctx.attr("axis", -1) % rank, rank)))


@rule("LRN")
def local_response_normalization(ctx: RuleContext) -> None:
    """Neighbouring channels enter the sum, so channels stay."""
    _normalise(ctx, {1})


@rule("LpNormalization", "CumSum", "TopK")
def along_one_axis(ctx: RuleContext) -> None:
    """The axis worked along stays."""
    rank = len(ctx.axes(0))
    axis = ctx.attr("axis", -1)
    if ctx.op == "CumSum":
        value = ctx.facts(1).value
        if value is None:
            raise RuleDoesNotApply(f"{ctx.title} computes its axis from data")
        axis = int(value.reshape(-1)[0])
    _normalise(ctx, {axis % rank})


@rule("MeanVarianceNormalization")
def mean_variance_normalization(ctx: RuleContext) -> None:
    """The normalised axes stay."""
    _normalise(ctx, set(ctx.attr("axes", [0, 2, 3])))


def _normalise(ctx: RuleContext, axes: set[int]) -> None:
    """Channels of `axes` stay, whoever else has them; so they keep their labels, which tell the reason."""
    for labels in [ctx.axes(0)[axis] for axis in axes] + [each for slot in ctx.slots[1:] for each in ctx.axes(slot)]:
        ctx.freeze(labels, "normalises over them")
    for slot, tensor in enumerate(ctx.node.outputs):
        if tensor.name and len(ctx.out_facts(slot).shape) == len(ctx.axes(0)):
            sizes = zip(ctx.axes(0), ctx.out_facts(slot).shape, strict=True)
            ctx.set([None if labels is None or len(labels) != size else labels for labels, size in sizes], slot)


@rule("GroupNormalization")
def group_normalization(ctx: RuleContext) -> None:
    """A group's statistics cover all its channels, so whole groups go and `num_groups` counts those left."""
    axes = ctx.axes(0)
    groups = ctx.attr("num_groups")
    if axes[1] is not None:
        by_group = axes[1].reshape(groups, -1)
        ctx.labels.equate(by_group, by_group[:, :1])
        ctx.count("num_groups", 0, by_group[:, 0], np.array([groups]))
    per_group = ctx.shape(1)[0] == groups
    for slot in (1, 2):
        ctx.tie(slot, 0, axes[1].reshape(groups, -1)[:, 0] if per_group and axes[1] is not None else axes[1])
    for axis in axes[2:]:
        ctx.freeze(axis, "computes statistics over them")
    ctx.set([*axes[:2], *([None] * len(axes[2:]))])
