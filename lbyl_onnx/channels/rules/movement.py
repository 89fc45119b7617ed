"""Operators that move whole slices along an axis: their labels move along."""

from __future__ import annotations

import math

import numpy as np

from ..labelling import RuleDoesNotApply, Site
from ..labels import Axis
from .registry import rule


@rule("Transpose")
def transpose(site: Site) -> None:
    """Axes are permuted."""
    axes = site.axes(0)
    order = site.attr("perm") or range(len(axes))[::-1]
    site.set([axes[axis] for axis in order])


@rule("Concat")
def concat(site: Site) -> None:
    """Labels are put end to end on `axis`; the other axes are one. Parts that cannot shrink stay whole."""
    rank = len(site.out_facts().shape)
    along = site.attr("axis", 1) % rank
    axes: list[Axis] = []
    for position in range(rank):
        if position != along:
            axes.append(site.join([(slot, position) for slot in site.slots]))
            continue
        parts = [site.axes(slot)[along] for slot in site.slots]
        if all(labels is None for labels in parts):
            axes.append(None)
            continue
        whole = []
        for slot, labels in zip(site.slots, parts, strict=True):
            if labels is None:
                labels = site.labels.fresh(site.shape(slot)[along])
                site.freeze(labels, "takes a part that cannot shrink")
            site.labels.couple(labels)
            whole.append(labels)
        axes.append(np.concatenate(whole))
    site.set(axes)


@rule("Split")
def split(site: Site) -> None:
    """Every part keeps its labels; the sizes of the parts count them."""
    axes = site.axes(0)
    along = site.attr("axis", 0) % len(axes)
    lengths = np.array([site.out_facts(slot).shape[along] for slot in range(len(site.node.outputs))])
    slot: int | str = 1 if site.opset >= 13 else "split"
    start = 0
    for number, length in enumerate(lengths.tolist()):
        part = list(axes)
        labels = axes[along]
        if labels is not None:
            part[along] = labels[start : start + length]
            site.count(slot, number, part[along], lengths)
        site.set(part, number)
        start += length
    if axes[along] is not None and site.attr("num_outputs") is not None:
        site.replaces(slot, "num_outputs")


@rule("Slice")
def slice_(site: Site) -> None:
    """A static range. 1. With step 1, its ends count the labels before them. 2. With a larger step that runs through
    the whole axis, as many neighbours as the step go together."""
    axes = list(site.axes(0))
    starts, ends = site.ints(1, "starts"), site.ints(2, "ends")
    chosen, steps = site.ints(3, "axes"), site.ints(4, "steps")
    if starts is None or ends is None:
        raise RuleDoesNotApply(f"{site.title} has no range")
    chosen = np.arange(len(starts)) if chosen is None else chosen
    for entry, axis in enumerate(chosen.tolist()):
        labels = axes[axis]
        if labels is None:
            continue
        step = 1 if steps is None else int(steps[entry])
        begin, end, _ = slice(int(starts[entry]), int(ends[entry]), step).indices(len(labels))
        whole = len(labels) % step == 0 and 0 <= begin < step and end == len(labels)
        if (step != 1 and not (step > 1 and whole)) or len(labels[begin:end:step]) != site.out_facts().shape[axis]:
            site.freeze(labels, "takes every n-th of them" if step != 1 else "cuts them at a place that varies")
            axes[axis] = None
            continue
        if step > 1:
            together = labels.reshape(-1, step)
            site.labels.equate(together, together[:, :1])
        else:
            site.count(1 if site.has(1) else "starts", entry, labels[:begin], starts)
        site.count(2 if site.has(2) else "ends", entry, labels[:end], ends)
        axes[axis] = labels[begin:end:step]
    site.set(axes)


@rule("Gather")
def gather(site: Site) -> None:
    """On an axis with channels: a constant index vector, renumbered. A constant table makes channels on its other
    axes."""
    along = site.attr("axis", 0) % len(site.shape(0))
    if site.is_weight(0) and not site.is_weight(1):
        site.freeze(site.axes(0)[along], "looks them up")
        data = list(site.axes(0))
        for axis, labels in enumerate(data):
            if axis != along:
                site.port("producer", 0, axis, labels)
        data[along] = None
    else:
        data = site.axes(0)
    picked = list(site.axes(1)) if not site.is_weight(1) else [None] * len(site.shape(1))
    labels = data[along]
    if labels is not None:
        indices = site.facts(1).value
        if indices is None or indices.ndim != 1 or not site.is_weight(1):
            site.freeze(labels, "picks single ones of them")
        else:
            indices = indices % len(labels)
            picked = [labels[indices]]
            site.renumber(1, indices, labels)
    site.set([*data[:along], *picked, *data[along + 1 :]])


@rule("Pad")
def pad(site: Site) -> None:
    """On an axis with channels: zeros before and after get labels of their own, which the pads count."""
    axes = list(site.axes(0))
    slot: int | str = 1 if site.has(1) else ("pads" if site.attr("pads") is not None else "paddings")
    pads = site.ints(1, str(slot))
    if pads is None:
        raise RuleDoesNotApply(f"{site.title} has no pads")
    chosen = site.ints(3, "axes") if site.has(3) else None
    positions = range(len(axes)) if chosen is None else chosen.tolist()
    value = site.facts(2).value if site.has(2) else np.array(site.attr("value", 0.0))
    zeros = site.attr("mode", "constant") == "constant" and value is not None and not np.any(value)
    for entry, axis in enumerate(positions):
        labels, before, after = axes[axis], int(pads[entry]), int(pads[entry + len(positions)])
        if labels is None or before == after == 0:
            continue
        if before < 0 or after < 0 or not zeros:
            site.freeze(labels, "pads them with other than zeros")
            axes[axis] = None
            continue
        head, tail = site.labels.fresh(before), site.labels.fresh(after)
        site.labels.couple(labels)
        site.count(slot, entry, head, pads)
        site.count(slot, entry + len(positions), tail, pads)
        axes[axis] = np.concatenate([head, labels, tail])
    site.set(axes)


@rule("Expand")
def expand(site: Site) -> None:
    """Axes that keep their length keep their labels; the target's entry counts them. A single number is repeated to
    channels of its own."""
    shape = site.out_facts().shape
    target = site.ints(1, "shape")
    if math.prod(site.shape(0)) == 1 and target is not None and len(target) == len(shape):
        site.set(site.fill(1, [None] * len(shape)))
        return
    axes: list[Axis] = []
    given = site.axes(0)
    for position, size in enumerate(shape):
        axis = position - len(shape) + len(given)
        labels = given[axis] if axis >= 0 else None
        if labels is not None and len(labels) != size:
            site.freeze(labels, "repeats them")
            labels = None
        entry = position - len(shape) + (0 if target is None else len(target))
        if labels is not None and target is not None and entry >= 0 and target[entry] > 1:
            site.count(1, entry, labels)
        axes.append(labels)
    site.set(axes)


@rule("Tile")
def tile(site: Site) -> None:
    """Labels repeat with their axis."""
    repeats = site.ints(1, "repeats")
    if repeats is None:
        raise RuleDoesNotApply(f"{site.title} has no repeats")
    varies = site.facts(1).varies
    axes: list[Axis] = []
    for axis, labels in enumerate(site.axes(0)):
        if labels is not None and (varies is None or varies[axis]):
            site.freeze(labels, "repeats them as often as the input's size says")
            labels = None
        axes.append(None if labels is None else np.tile(labels, int(repeats[axis])))
    site.set(axes)


@rule("Resize", "Upsample")
def resize(site: Site) -> None:
    """Axes that keep their length keep their labels; given as sizes, their entries count them."""
    shape = site.out_facts().shape
    chosen = [axis % len(shape) for axis in site.attr("axes") or range(len(shape))]
    axes = list(site.axes(0))
    for axis, labels in enumerate(axes):
        if labels is None:
            continue
        if len(labels) != shape[axis] or site.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
            site.freeze(labels, "resizes them")
            axes[axis] = None
        elif site.op == "Resize" and site.has(3) and axis in chosen:
            site.count(3, chosen.index(axis), labels)
    site.set(axes)
