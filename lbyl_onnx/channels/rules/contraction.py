"""Operators that sum over channels with weights: their output axis makes channels, their input axis takes them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from ..equivalence import Axis
from ..rule_context import RuleContext, RuleDoesNotApply
from .registry import rule


@rule("Conv", "ConvInteger")
def conv(ctx: RuleContext) -> None:
    """X (N, C, ...), W (M, C/groups, ...), B (M): see `_convolve`."""
    _convolve(ctx, out_axis=0, in_axis=1)


@rule("FusedConv", domain="com.microsoft")
def fused_conv(ctx: RuleContext) -> None:
    """A Conv, a sum with Z (input 3, of the output's shape) and an activation."""
    made = _convolve(ctx, out_axis=0, in_axis=1)
    if ctx.has(3):
        ctx.tie(3, 1, made)
        ctx.labels.couple(made)
        for axis in [ctx.axes(3)[0], *ctx.axes(3)[2:]]:
            ctx.freeze(axis, "adds them to axes that stay")


@rule("ConvTranspose")
def conv_transpose(ctx: RuleContext) -> None:
    """X (N, C, ...), W (C, M/groups, ...), B (M): a Conv with its weight axes swapped."""
    _convolve(ctx, out_axis=1, in_axis=0)


def _convolve(ctx: RuleContext, out_axis: int, in_axis: int) -> Axis:
    """Convolutions in any number of dimensions; gives the output's channels.

    1. One group: the weight takes channels on one axis and makes channels on the other.
    2. Groups of few channels (no more than there are groups; depthwise is the extreme): whole groups go, input and
       output together, and the attribute `group` counts those that are left. No channels are made.
    3. Few, large groups: every group loses the same number of inputs, and of outputs.
    """
    groups = ctx.attr("group", 1)
    spatial = ctx.axes(0)[2:]
    for axis in spatial:
        ctx.freeze(axis, "slides over them")
    channels = ctx.shape(0)[1]
    if groups == 1:
        taken = ctx.join([(0, 1), (1, in_axis)], couple=False)
        ctx.port("consumer", 1, in_axis, taken)
        made = ctx.produce(1, out_axis)
    elif groups >= channels // groups:
        made = _whole_groups(ctx, groups, out_axis, in_axis)
    else:
        made = _large_groups(ctx, groups, out_axis, in_axis)
    if ctx.op == "ConvInteger":
        _zero_points(ctx, made)
    elif ctx.has(2):
        ctx.tie(2, 0, made)
    ctx.set([ctx.axes(0)[0], made, *([None] * len(spatial))])
    return made


def _zero_points(ctx: RuleContext, made: Axis) -> None:
    """The zero point of the weight, input 3, is one number, or one for each channel that the node makes."""
    if ctx.has(3) and math.prod(ctx.shape(3)) > 1:
        ctx.tie(3, len(ctx.shape(3)) - 1, made)


def _whole_groups(ctx: RuleContext, groups: int, out_axis: int, in_axis: int) -> Axis:
    taken = ctx.axes(0)[1]
    weight = ctx.axes(1)
    if taken is None:
        ctx.freeze(weight[0], "takes channels that stay")
        return None
    by_group = taken.reshape(groups, -1)
    ctx.labels.equate(by_group, by_group[:, :1])
    outputs = ctx.out_facts().shape[1]
    made = np.repeat(by_group[:, 0], outputs // groups)
    ctx.tie(1, 0, made if out_axis == 0 else taken)
    ctx.freeze(weight[1], "keeps the size of its groups")
    ctx.count("group", 0, by_group[:, 0], np.array([groups]))
    return made


def _large_groups(ctx: RuleContext, groups: int, out_axis: int, in_axis: int) -> Axis:
    taken = ctx.axes(0)[1]
    if taken is not None:
        ctx.labels.equate(taken.reshape(groups, -1), taken.reshape(groups, -1)[:1])
        taken_in_weight = taken if in_axis == 0 else taken.reshape(groups, -1)[0]
        ctx.tie(1, in_axis, taken_in_weight)
        ctx.port("consumer", 1, in_axis, taken_in_weight, groups)
    else:
        ctx.freeze(ctx.axes(1)[in_axis], "takes channels that stay")
    if out_axis == 0:
        return ctx.produce(1, 0, groups)
    made = ctx.produce(1, 1)
    return None if made is None else np.tile(made, groups)


@rule("FusedGemm", domain="com.microsoft")
@rule("Gemm")
def gemm(ctx: RuleContext) -> None:
    """A (M, K), B (K, N), either transposed, plus C broadcast to (M, N)."""
    rows, inner_a = (1, 0) if ctx.attr("transA", 0) else (0, 1)
    inner_b, columns = (1, 0) if ctx.attr("transB", 0) else (0, 1)
    axes = _multiply(ctx, inner_a, inner_b, rows, columns)
    if ctx.has(2):
        bias = ctx.shape(2)
        for position, labels in enumerate(axes):
            axis = position - 2 + len(bias)
            if axis >= 0 and bias[axis] == ctx.out_facts().shape[position]:
                ctx.tie(2, axis, labels)
    ctx.set(axes)


@rule("FusedMatMul", domain="com.microsoft")
@rule("MatMul", "MatMulInteger")
def matmul(ctx: RuleContext) -> None:
    """A (..., M, K), B (..., K, N) with numpy's rules: K is one axis, leading axes broadcast. FusedMatMul may
    transpose the last two axes.

    A constant on either side is a weight; two activations (attention) only share their labels.
    """
    ranks = [len(ctx.shape(slot)) for slot in (0, 1)]
    if min(ranks) < 2 or ctx.attr("transBatchA", 0) or ctx.attr("transBatchB", 0):
        raise RuleDoesNotApply(f"{ctx.title} multiplies a vector or transposes its batch")
    rows, inner_a = (ranks[0] - 2, ranks[0] - 1)[:: -1 if ctx.attr("transA", 0) else 1]
    inner_b, columns = (ranks[1] - 2, ranks[1] - 1)[:: -1 if ctx.attr("transB", 0) else 1]
    inner = _multiply(ctx, inner_a, inner_b, rows, columns)
    if ctx.op == "MatMulInteger":
        _zero_points(ctx, inner[1])
    batch: list[Axis] = []
    for position in range(max(ranks) - 2):
        members = []
        for slot, rank in enumerate(ranks):
            axis = position - max(ranks) + rank
            if axis >= 0 and ctx.shape(slot)[axis] == ctx.out_facts().shape[position]:
                members.append((slot, axis))
            elif axis >= 0:
                ctx.freeze(ctx.axes(slot)[axis], "broadcasts them")
        batch.append(ctx.join(members))
    ctx.set([*batch, *inner])


def _multiply(ctx: RuleContext, inner_a: int, inner_b: int, rows: int, columns: int) -> list[Axis]:
    """Join the inner axes, note which side is a weight, and give the labels of rows and columns."""
    weights = [slot for slot in (0, 1) if ctx.is_weight(slot)]
    inner = ctx.join([(0, inner_a), (1, inner_b)])
    inner_axis, outer_axis = {0: inner_a, 1: inner_b}, {0: rows, 1: columns}
    outer = []
    for slot in (0, 1):
        if weights == [slot]:
            ctx.port("consumer", slot, inner_axis[slot], inner)
            outer.append(ctx.produce(slot, outer_axis[slot]))
        else:
            outer.append(ctx.axes(slot)[outer_axis[slot]])
    return outer


@rule("Einsum")
def einsum(ctx: RuleContext) -> None:
    """A letter is one axis wherever it stands, but where it broadcasts; one that is summed over within a single
    operand freezes. A letter of a weight that stands nowhere else is made, one that is summed over is taken."""
    operands, result = _einsum_terms(ctx)
    weights = [slot for slot in ctx.slots if ctx.is_weight(slot)]
    letters: dict[str, Axis] = {}
    for letter in dict.fromkeys("".join(operands)):
        places = [
            (slot, axis) for slot, term in enumerate(operands) for axis, name in enumerate(term) if name == letter
        ]
        size = max(ctx.shape(slot)[axis] for slot, axis in places)
        members = [(slot, axis) for slot, axis in places if ctx.shape(slot)[axis] == size]
        for slot, axis in set(places) - set(members):
            ctx.freeze(ctx.axes(slot)[axis], "broadcasts them")
        slots = {slot for slot, _ in members}
        letters[letter] = ctx.join(members)
        if letter not in result and len(slots) == 1:
            ctx.freeze(letters[letter], "sums over them")
        for slot, axis in members:
            if slot in weights and len(weights) < len(operands):
                if letter not in result:
                    ctx.port("consumer", slot, axis, letters[letter])
                elif slots == {slot}:
                    ctx.port("producer", slot, axis, letters[letter])
    ctx.set([letters[letter] for letter in result])


def _einsum_terms(ctx: RuleContext) -> tuple[list[str], str]:
    """The operands' letters and the result's, with digits for the axes of an ellipsis, which align at the right."""
    equation = ctx.attr("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    operands = left.split(",")
    hidden = [len(ctx.shape(slot)) - len(term.replace("...", "")) for slot, term in enumerate(operands)]
    digits = "".join(str(number) for number in range(10))[: max(hidden)]
    operands = [
        term.replace("...", digits[len(digits) - count :]) for term, count in zip(operands, hidden, strict=True)
    ]
    once = sorted(letter for letter, count in Counter(left).items() if count == 1 and letter.isalpha())
    result = result.replace("...", digits) if arrow else digits + "".join(once)
    return operands, result
