"""Operators that see many elements of an axis at once: pooling over space, reductions, normalisations."""

from __future__ import annotations

import numpy as np

from ..labelling import RuleDoesNotApply, Site
from .registry import rule

POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split()
REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
""".split()


@rule(*POOLS)
def pool(site: Site) -> None:
    """Channels go through one by one; space is pooled."""
    axes = site.axes(0)
    for axis in axes[2:]:
        site.freeze(axis, "pools over them")
    if len(site.node.outputs) > 1 and site.node.outputs[1].name:
        site.freeze(axes[1], "counts them in its indices")
    for slot in range(len(site.node.outputs)):
        site.set([*axes[:2], *([None] * len(axes[2:]))], slot)


@rule(*REDUCTIONS)
def reduce(site: Site) -> None:
    """Reduced axes see all their channels at once, so those stay; the others pass."""
    chosen = site.ints(1, "axes")
    rank = len(site.axes(0))
    if chosen is None or not chosen.size:
        chosen = np.arange(0 if site.attr("noop_with_empty_axes", 0) else rank)
    _collapse(site, {int(axis) % rank for axis in chosen})


@rule("ArgMax", "ArgMin")
def arg_reduce(site: Site) -> None:
    """As a reduction over one axis."""
    _collapse(site, {site.attr("axis", 0) % len(site.axes(0))})


def _collapse(site: Site, reduced: set[int]) -> None:
    axes = []
    for axis, labels in enumerate(site.axes(0)):
        if axis in reduced:
            site.freeze(labels, "reduces over them")
        if axis not in reduced:
            axes.append(labels)
        elif site.attr("keepdims", 1):
            axes.append(None)
    site.set(axes)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(site: Site) -> None:
    """The normalised axis stays; before opset 13 that is every axis from `axis` on."""
    rank = len(site.axes(0))
    first = site.attr("axis", -1 if site.opset >= 13 else 1) % rank
    _normalise(site, {first} if site.opset >= 13 else set(range(first, rank)))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(site: Site) -> None:
    """Every axis from `axis` on is normalised as one and stays.

    An exact rewrite (centring and rescaling folded into the neighbouring weights) would take this rule's place.
    """
    rank = len(site.axes(0))
    _normalise(site, set(range(site.attr("axis", -1) % rank, rank)))


@rule("LRN")
def local_response_normalization(site: Site) -> None:
    """Neighbouring channels enter the sum, so channels stay."""
    _normalise(site, {1})


@rule("LpNormalization", "CumSum", "TopK")
def along_one_axis(site: Site) -> None:
    """The axis worked along stays."""
    rank = len(site.axes(0))
    axis = site.attr("axis", -1)
    if site.op == "CumSum":
        value = site.facts(1).value
        if value is None:
            raise RuleDoesNotApply(f"{site.title} computes its axis from data")
        axis = int(value.reshape(-1)[0])
    _normalise(site, {axis % rank})


@rule("MeanVarianceNormalization")
def mean_variance_normalization(site: Site) -> None:
    """The normalised axes stay."""
    _normalise(site, set(site.attr("axes", [0, 2, 3])))


def _normalise(site: Site, axes: set[int]) -> None:
    """Channels of `axes` stay, whoever else has them; so they keep their labels, which tell the reason."""
    for labels in [site.axes(0)[axis] for axis in axes] + [each for slot in site.slots[1:] for each in site.axes(slot)]:
        site.freeze(labels, "normalises over them")
    for slot, tensor in enumerate(site.node.outputs):
        if tensor.name and len(site.out_facts(slot).shape) == len(site.axes(0)):
            sizes = zip(site.axes(0), site.out_facts(slot).shape, strict=True)
            site.set([None if labels is None or len(labels) != size else labels for labels, size in sizes], slot)


@rule("GroupNormalization")
def group_normalization(site: Site) -> None:
    """A group's statistics cover all its channels, so whole groups go and `num_groups` counts those left."""
    axes = site.axes(0)
    groups = site.attr("num_groups")
    if axes[1] is not None:
        by_group = axes[1].reshape(groups, -1)
        site.labels.equate(by_group, by_group[:, :1])
        site.count("num_groups", 0, by_group[:, 0], np.array([groups]))
    per_group = site.shape(1)[0] == groups
    for slot in (1, 2):
        site.tie(slot, 0, axes[1].reshape(groups, -1)[:, 0] if per_group and axes[1] is not None else axes[1])
    for axis in axes[2:]:
        site.freeze(axis, "computes statistics over them")
    site.set([*axes[:2], *([None] * len(axes[2:]))])
