"""Operators that move whole slices along an axis: their labels move along."""

from __future__ import annotations

import math

import numpy as np

from ..equivalence import Axis
from ..rule_context import RuleContext, RuleDoesNotApply
from .registry import rule


@rule("Transpose")
def transpose(ctx: RuleContext) -> None:
    """Axes are permuted."""
    axes = ctx.axes(0)
    order = ctx.attr("perm") or range(len(axes))[::-1]
    ctx.set([axes[axis] for axis in order])


@rule("Concat")
def concat(ctx: RuleContext) -> None:
    """Labels are put end to end on `axis`; the other axes are one. Parts that cannot shrink stay whole."""
    rank = len(ctx.out_facts().shape)
    along = ctx.attr("axis", 1) % rank
    axes: list[Axis] = []
    for position in range(rank):
        if position != along:
            axes.append(ctx.join([(slot, position) for slot in ctx.slots]))
            continue
        parts = [ctx.axes(slot)[along] for slot in ctx.slots]
        if all(labels is None for labels in parts):
            axes.append(None)
            continue
        whole = []
        for slot, labels in zip(ctx.slots, parts, strict=True):
            if labels is None:
                labels = ctx.labels.fresh(ctx.shape(slot)[along])
                ctx.freeze(labels, "takes a part that cannot shrink")
            ctx.labels.couple(labels)
            whole.append(labels)
        axes.append(np.concatenate(whole))
    ctx.set(axes)


@rule("Split")
def split(ctx: RuleContext) -> None:
    """Every part keeps its labels; the sizes of the parts count them."""
    axes = ctx.axes(0)
    along = ctx.attr("axis", 0) % len(axes)
    lengths = np.array([ctx.out_facts(slot).shape[along] for slot in range(len(ctx.node.outputs))])
    slot: int | str = 1 if ctx.opset >= 13 else "split"
    start = 0
    for number, length in enumerate(lengths.tolist()):
        part = list(axes)
        labels = axes[along]
        if labels is not None:
            part[along] = labels[start : start + length]
            ctx.count(slot, number, part[along], lengths)
        ctx.set(part, number)
        start += length
    if axes[along] is not None and ctx.attr("num_outputs") is not None:
        ctx.replaces(slot, "num_outputs")


@rule("Slice")
def slice_(ctx: RuleContext) -> None:
    """A static range. 1. With step 1, its ends count the labels before them. 2. With a larger step that runs through
    the whole axis, as many neighbours as the step go together."""
    axes = list(ctx.axes(0))
    starts, ends = ctx.ints(1, "starts"), ctx.ints(2, "ends")
    chosen, steps = ctx.ints(3, "axes"), ctx.ints(4, "steps")
    if starts is None or ends is None:
        raise RuleDoesNotApply(f"{ctx.title} has no range")
    chosen = np.arange(len(starts)) if chosen is None else chosen
    for entry, axis in enumerate(chosen.tolist()):
        labels = axes[axis]
        if labels is None:
            continue
        step = 1 if steps is None else int(steps[entry])
        begin, end, _ = slice(int(starts[entry]), int(ends[entry]), step).indices(len(labels))
        whole = len(labels) % step == 0 and 0 <= begin < step and end == len(labels)
        if (step != 1 and not (step > 1 and whole)) or len(labels[begin:end:step]) != ctx.out_facts().shape[axis]:
            ctx.freeze(labels, "takes every n-th of them" if step != 1 else "cuts them at a place that varies")
            axes[axis] = None
            continue
        if step > 1:
            together = labels.reshape(-1, step)
            ctx.labels.equate(together, together[:, :1])
        else:
            ctx.count(1 if ctx.has(1) else "starts", entry, labels[:begin], starts)
        ctx.count(2 if ctx.has(2) else "ends", entry, labels[:end], ends)
        axes[axis] = labels[begin:end:step]
    ctx.set(axes)


@rule("Gather")
def gather(ctx: RuleContext) -> None:
    """On an axis with channels: a constant index vector, renumbered. A constant table makes channels on its other
    axes."""
    along = ctx.attr("axis", 0) % len(ctx.shape(0))
    if ctx.is_weight(0) and not ctx.is_weight(1):
        ctx.freeze(ctx.axes(0)[along], "looks them up")
        data = list(ctx.axes(0))
        for axis, labels in enumerate(data):
            if axis != along:
                ctx.port("producer", 0, axis, labels)
        data[along] = None
    else:
        data = ctx.axes(0)
    picked = list(ctx.axes(1)) if not ctx.is_weight(1) else [None] * len(ctx.shape(1))
    labels = data[along]
    if labels is not None:
        indices = ctx.facts(1).value
        if indices is None or indices.ndim != 1 or not ctx.is_weight(1):
            ctx.freeze(labels, "picks single ones of them")
        else:
            indices = indices % len(labels)
            picked = [labels[indices]]
            ctx.renumber(1, indices, labels)
    ctx.set([*data[:along], *picked, *data[along + 1 :]])


@rule("Pad")
def pad(ctx: RuleContext) -> None:
    """On an axis with channels: zeros before and after get labels of their own, which the pads count."""
    axes = list(ctx.axes(0))
    slot: int | str = 1 if ctx.has(1) else ("pads" if ctx.attr("pads") is not None else "paddings")
    pads = ctx.ints(1, str(slot))
    if pads is None:
        raise RuleDoesNotApply(f"{ctx.title} has no pads")
    chosen = ctx.ints(3, "axes") if ctx.has(3) else None
    positions = range(len(axes)) if chosen is None else chosen.tolist()
    value = ctx.facts(2).value if ctx.has(2) else np.array(ctx.attr("value", 0.0))
    zeros = ctx.attr("mode", "constant") == "constant" and value is not None and not np.any(value)
    for entry, axis in enumerate(positions):
        labels, before, after = axes[axis], int(pads[entry]), int(pads[entry + len(positions)])
        if labels is None or before == after == 0:
            continue
        if before < 0 or after < 0 or not zeros:
            ctx.freeze(labels, "pads them with other than zeros")
            axes[axis] = None
            continue
        head, tail = ctx.labels.fresh(before), ctx.labels.fresh(after)
        ctx.labels.couple(labels)
        ctx.count(slot, entry, head, pads)
        ctx.count(slot, entry + len(positions), tail, pads)
        axes[axis] = np.concatenate([head, labels, tail])
    ctx.set(axes)


@rule("Expand")
def expand(ctx: RuleContext) -> None:
    """Axes that keep their length keep their labels; the target's entry counts them. A single number is repeated to
    channels of its own."""
    shape = ctx.out_facts().shape
    target = ctx.ints(1, "shape")
    if math.prod(ctx.shape(0)) == 1 and target is not None and len(target) == len(shape):
        ctx.set(ctx.fill(1, [None] * len(shape)))
        return
    axes: list[Axis] = []
    given = ctx.axes(0)
    for position, size in enumerate(shape):
        axis = position - len(shape) + len(given)
        labels = given[axis] if axis >= 0 else None
        if labels is not None and len(labels) != size:
            ctx.freeze(labels, "repeats them")
            labels = None
        entry = position - len(shape) + (0 if target is None else len(target))
        if labels is not None and target is not None and entry >= 0 and target[entry] > 1:
            ctx.count(1, entry, labels)
        axes.append(labels)
    ctx.set(axes)


@rule("Tile")
def tile(ctx: RuleContext) -> None:
    """Labels repeat with their axis."""
    repeats = ctx.ints(1, "repeats")
    if repeats is None:
        raise RuleDoesNotApply(f"{ctx.title} has no repeats")
    varies = ctx.facts(1).varies
    axes: list[Axis] = []
    for axis, labels in enumerate(ctx.axes(0)):
        if labels is not None and (varies is None or varies[axis]):
            ctx.freeze(labels, "repeats them as often as the input's size says")
            labels = None
        axes.append(None if labels is None else np.tile(labels, int(repeats[axis])))
    ctx.set(axes)


@rule("Resize", "Upsample")
def resize(ctx: RuleContext) -> None:
    """Axes that keep their length keep their labels; given as sizes, their entries count them."""
    shape = ctx.out_facts().shape
    chosen = [axis % len(shape) for axis in ctx.attr("axes") or range(len(shape))]
    axes = list(ctx.axes(0))
    for axis, labels in enumerate(axes):
        if labels is None:
            continue
        if len(labels) != shape[axis] or ctx.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
            ctx.freeze(labels, "resizes them")
            axes[axis] = None
        elif ctx.op == "Resize" and ctx.has(3) and axis in chosen:
            ctx.count(3, chosen.index(axis), labels)
    ctx.set(axes)
