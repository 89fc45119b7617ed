"""Operators that sum over channels with weights: their output axis makes channels, their input axis takes them."""

from __future__ import annotations

import numpy as np

from ..labelling import RuleDoesNotApply, Site
from ..labels import Axis
from .registry import rule


@rule("Conv", "ConvInteger")
def conv(site: Site) -> None:
    """X (N, C, ...), W (M, C/groups, ...), B (M): see `_convolve`."""
    _convolve(site, out_axis=0, in_axis=1)


@rule("ConvTranspose")
def conv_transpose(site: Site) -> None:
    """X (N, C, ...), W (C, M/groups, ...), B (M): a Conv with its weight axes swapped."""
    _convolve(site, out_axis=1, in_axis=0)


def _convolve(site: Site, out_axis: int, in_axis: int) -> None:
    """Convolutions in any number of dimensions.

    1. One group: the weight takes channels on one axis and makes channels on the other.
    2. Groups of few channels (no more than there are groups; depthwise is the extreme): whole groups go, input and
       output together, and the attribute `group` counts those that are left. No channels are made.
    3. Few, large groups: every group loses the same number of inputs, and of outputs.
    """
    if site.op == "ConvInteger" and len(site.slots) > 2:
        raise RuleDoesNotApply(f"{site.title} has zero points")
    groups = site.attr("group", 1)
    spatial = site.axes(0)[2:]
    for axis in spatial:
        site.freeze(axis, "slides over them")
    channels = site.shape(0)[1]
    if groups == 1:
        taken = site.join([(0, 1), (1, in_axis)], couple=False)
        site.port("consumer", 1, in_axis, taken)
        made = site.produce(1, out_axis)
    elif groups >= channels // groups:
        made = _whole_groups(site, groups, out_axis, in_axis)
    else:
        made = _large_groups(site, groups, out_axis, in_axis)
    if site.has(2) and site.op != "ConvInteger":
        _tie(site, 2, 0, made)
    site.set([site.axes(0)[0], made, *([None] * len(spatial))])


def _tie(site: Site, slot: int, axis: int, labels: Axis) -> None:
    """Axis `axis` of input `slot` carries exactly `labels`."""
    own = site.axes(slot)[axis]
    if labels is None or own is None:
        site.freeze(own, "ties them to channels that stay")
        site.freeze(labels, "ties them to channels that stay")
    else:
        site.labels.equate(own, labels)


def _whole_groups(site: Site, groups: int, out_axis: int, in_axis: int) -> Axis:
    taken = site.axes(0)[1]
    weight = site.axes(1)
    if taken is None:
        site.freeze(weight[0], "takes channels that stay")
        return None
    by_group = taken.reshape(groups, -1)
    site.labels.equate(by_group, by_group[:, :1])
    outputs = site.out_facts().shape[1]
    made = np.repeat(by_group[:, 0], outputs // groups)
    _tie(site, 1, 0, made if out_axis == 0 else taken)
    site.freeze(weight[1], "keeps the size of its groups")
    site.count("group", 0, by_group[:, 0], np.array([groups]))
    return made


def _large_groups(site: Site, groups: int, out_axis: int, in_axis: int) -> Axis:
    taken = site.axes(0)[1]
    if taken is not None:
        site.labels.equate(taken.reshape(groups, -1), taken.reshape(groups, -1)[:1])
        taken_in_weight = taken if in_axis == 0 else taken.reshape(groups, -1)[0]
        _tie(site, 1, in_axis, taken_in_weight)
        site.port("consumer", 1, in_axis, taken_in_weight, groups)
    else:
        site.freeze(site.axes(1)[in_axis], "takes channels that stay")
    if out_axis == 0:
        return site.produce(1, 0, groups)
    made = site.produce(1, 1)
    return None if made is None else np.tile(made, groups)


@rule("Gemm")
def gemm(site: Site) -> None:
    """A (M, K), B (K, N), either transposed, plus C broadcast to (M, N)."""
    rows, inner_a = (1, 0) if site.attr("transA", 0) else (0, 1)
    inner_b, columns = (1, 0) if site.attr("transB", 0) else (0, 1)
    axes = _multiply(site, inner_a, inner_b, rows, columns)
    if site.has(2):
        bias = site.shape(2)
        for position, labels in enumerate(axes):
            axis = position - 2 + len(bias)
            if axis >= 0 and bias[axis] == site.out_facts().shape[position]:
                _tie(site, 2, axis, labels)
    site.set(axes)


@rule("MatMul", "MatMulInteger")
def matmul(site: Site) -> None:
    """A (..., M, K), B (..., K, N) with numpy's rules: K is one axis, leading axes broadcast.

    A constant on either side is a weight; two activations (attention) only share their labels.
    """
    if site.op == "MatMulInteger" and len(site.slots) > 2:
        raise RuleDoesNotApply(f"{site.title} has zero points")
    ranks = [len(site.shape(slot)) for slot in (0, 1)]
    if min(ranks) < 2:
        raise RuleDoesNotApply(f"{site.title} multiplies a vector")
    inner = _multiply(site, ranks[0] - 1, ranks[1] - 2, ranks[0] - 2, ranks[1] - 1)
    batch: list[Axis] = []
    for position in range(max(ranks) - 2):
        members = []
        for slot, rank in enumerate(ranks):
            axis = position - max(ranks) + rank
            if axis >= 0 and site.shape(slot)[axis] == site.out_facts().shape[position]:
                members.append((slot, axis))
            elif axis >= 0:
                site.freeze(site.axes(slot)[axis], "broadcasts them")
        batch.append(site.join(members))
    site.set([*batch, *inner])


def _multiply(site: Site, inner_a: int, inner_b: int, rows: int, columns: int) -> list[Axis]:
    """Join the inner axes, note which side is a weight, and give the labels of rows and columns."""
    weights = [slot for slot in (0, 1) if site.is_weight(slot)]
    inner = site.join([(0, inner_a), (1, inner_b)])
    inner_axis, outer_axis = {0: inner_a, 1: inner_b}, {0: rows, 1: columns}
    outer = []
    for slot in (0, 1):
        if weights == [slot]:
            site.port("consumer", slot, inner_axis[slot], inner)
            outer.append(site.produce(slot, outer_axis[slot]))
        else:
            outer.append(site.axes(slot)[outer_axis[slot]])
    return outer


@rule("Einsum")
def einsum(site: Site) -> None:
    """A letter is one axis wherever it stands; a letter summed over within one operand freezes."""
    equation = site.attr("equation").replace(" ", "")
    if "->" not in equation or "." in equation:
        raise RuleDoesNotApply(f"{site.title} uses an implicit output or an ellipsis")
    left, result = equation.split("->")
    operands = left.split(",")
    weights = [slot for slot in site.slots if site.is_weight(slot)]
    letters: dict[str, Axis] = {}
    for letter in dict.fromkeys(left.replace(",", "")):
        members = [
            (slot, axis) for slot, term in enumerate(operands) for axis, name in enumerate(term) if name == letter
        ]
        slots = {slot for slot, _ in members}
        sizes = {site.shape(slot)[axis] for slot, axis in members}
        if len(sizes) > 1:
            raise RuleDoesNotApply(f"{site.title} broadcasts {letter!r}")
        letters[letter] = site.join(members)
        if letter not in result and len(slots) == 1:
            site.freeze(letters[letter], "sums over them")
        for slot, axis in members:
            if slot in weights and len(weights) < len(operands):
                if letter not in result:
                    site.port("consumer", slot, axis, letters[letter])
                elif slots == {slot}:
                    site.port("producer", slot, axis, letters[letter])
    site.set([letters[letter] for letter in result])
