"""Operators that keep the order of elements and cut it into other axes: Reshape and its relatives."""

from __future__ import annotations

import math

import numpy as np

from ..equivalence import Axis
from ..rule_context import RuleContext, RuleDoesNotApply
from .registry import rule


@rule("Reshape")
def reshape(ctx: RuleContext) -> None:
    """The target's entry of an axis with channels counts them, unless it is 0 (copied) or -1 (inferred)."""
    axes = regroup(ctx, ctx.out_facts().shape)
    slot: int | str = 1 if ctx.has(1) else "shape"
    target = ctx.ints(1, "shape")
    for position, labels in enumerate(axes):
        if labels is not None and target is not None and target[position] > 0:
            ctx.count(slot, position, labels, target)
    ctx.set(axes)


@rule("Flatten", "Squeeze", "Unsqueeze")
def implied_reshape(ctx: RuleContext) -> None:
    """The output's shape follows from the input's, so nothing has to be rewritten."""
    ctx.set(regroup(ctx, ctx.out_facts().shape))


@rule("DepthToSpace")
def depth_to_space(ctx: RuleContext) -> None:
    """Channels (b, b, C) or, in mode CRD, (C, b, b): blocks move into space, C stays."""
    block = ctx.attr("blocksize")
    axes = ctx.axes(0)
    channels = axes[1]
    if channels is not None:
        crd = ctx.attr("mode", "DCR") == "CRD"
        by_channel = channels.reshape(-1, block * block) if crd else channels.reshape(block * block, -1).T
        ctx.labels.equate(by_channel, by_channel[:, :1])
        channels = by_channel[:, 0]
    for axis in axes[2:]:
        ctx.freeze(axis, "interleaves them")
    ctx.set([axes[0], channels, *([None] * len(axes[2:]))])


@rule("SpaceToDepth")
def space_to_depth(ctx: RuleContext) -> None:
    """Output channels are (b, b, C)."""
    axes = ctx.axes(0)
    for axis in axes[2:]:
        ctx.freeze(axis, "interleaves them")
    channels = None if axes[1] is None else np.tile(axes[1], ctx.attr("blocksize") ** 2)
    ctx.set([axes[0], channels, *([None] * len(axes[2:]))])


def regroup(ctx: RuleContext, shape: tuple[int, ...]) -> list[Axis]:
    """Labels of input 0 cut anew into `shape`, block by block of axes with equal products.

    1. Within a block, at most one axis may carry channels that can go.
    2. If the channels vary along one output axis only, that axis carries them (Flatten: each label repeats).
    3. If they spread over several (heads x head size, groups x channels), what is removed must stay rectangular:
       one axis carries them and all indices of the others are equated. The axis of the most units is tried first,
       then, should that leave the channels frozen, the others.
    4. Where another axis of the block varies in size, only an axis whose labels do not depend on it can carry them.
    """
    axes: list[Axis] = [None] * len(shape)
    given = ctx.axes(0)
    for before, after in blocks(ctx.shape(0), shape):
        carriers = [axis for axis in before if given[axis] is not None]
        if not carriers:
            continue
        carrier = max(carriers, key=lambda axis: (not _stays(ctx, axis, carriers), ctx.shape(0)[axis]))
        for axis in carriers:
            if axis != carrier:
                ctx.freeze(given[axis], "merges them with another channel axis")
        labels = given[carrier]
        assert labels is not None
        able = [place for place, axis in enumerate(after) if _is_steady(ctx, before, carrier, after, axis)]
        if not able:
            ctx.freeze(labels, "drops their axis" if not after else "merges them with an axis of varying size")
            continue
        sizes = [ctx.shape(0)[axis] for axis in before]
        along = [1] * len(sizes)
        along[before.index(carrier)] = -1
        spread = np.broadcast_to(labels.reshape(along), sizes).reshape([shape[axis] for axis in after])
        position, carried = _carrier(ctx, spread, able)
        axes[after[position]] = carried
    return axes


def _stays(ctx: RuleContext, axis: int, carriers: list[int]) -> bool:
    labels = ctx.axes(0)[axis]
    return len(carriers) > 1 and labels is not None and ctx.labels.is_frozen(labels)


def _is_steady(ctx: RuleContext, before: list[int], carrier: int, after: list[int], axis: int) -> bool:
    """Whether the labels along output `axis` are the same whatever the sizes of axes that vary.

    Those must lie in front of both the carrier and `axis`; and one of these two must repeat within the other.
    """
    source, target = ctx.facts(0), ctx.out_facts()
    if not any(source.dynamic[other] for other in before if other != carrier):
        return True
    inner = [other for other in before if other > carrier]
    behind = [other for other in after if other >= axis]
    if any(source.dynamic[other] for other in inner) or any(target.dynamic[other] for other in behind):
        return False
    left = math.prod(source.shape[other] for other in [carrier, *inner])
    right = math.prod(target.shape[other] for other in behind)
    return left % right == 0 or right % left == 0


def _carrier(ctx: RuleContext, spread: np.ndarray, able: list[int]) -> tuple[int, np.ndarray]:
    """The axis of `spread` (labels, one an element), out of those in `able`, that carries the channels, and its
    labels."""
    faces = {axis: np.moveaxis(spread, axis, 0).reshape(spread.shape[axis], -1) for axis in able}
    for axis, face in faces.items():
        if (face == face[:, :1]).all():
            return axis, face[:, 0]
    units = {axis: len(np.unique(face.min(axis=1))) for axis, face in faces.items()}
    options = sorted(able, key=lambda axis: (-units[axis], -axis))
    axis = ctx.choose([axis for axis in options if units[axis] > 1] or options, spread)
    ctx.labels.equate(faces[axis], faces[axis][:, :1])
    return axis, faces[axis][:, 0]


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Pair runs of axes of two shapes that hold the same elements in the same order.

    >>> blocks((2, 12, 5), (2, 3, 4, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if math.prod(before) != math.prod(after) or math.prod(before) == 0:
        raise RuleDoesNotApply("a reshape of an empty tensor")
    pairs: list[tuple[list[int], list[int]]] = []
    left = right = 0
    while left < len(before) or right < len(after):
        run_left, run_right = [left][: len(before) - left], [right][: len(after) - right]
        size_left = before[left] if run_left else 1
        size_right = after[right] if run_right else 1
        left, right = left + len(run_left), right + len(run_right)
        while size_left != size_right:
            if size_left < size_right:
                size_left *= before[left]
                run_left.append(left)
                left += 1
            else:
                size_right *= after[right]
                run_right.append(right)
                right += 1
        pairs.append((run_left, run_right))
    return pairs
