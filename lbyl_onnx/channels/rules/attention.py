"""Attention as one operator: whole heads go, and the attributes that count heads follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..equivalence import Axis
from ..rule_context import RuleContext, RuleDoesNotApply
from .registry import rule


@rule("Attention", domain="com.microsoft")
def attention_with_weights(ctx: RuleContext) -> None:
    """X (B, L, D), weights (D, Q + K + V), bias (Q + K + V), where Q, K and V hold `num_heads` heads each."""
    _refuse(ctx, inputs=[4, 6], outputs=[1])
    heads = ctx.attr("num_heads")
    x = ctx.axes(0)
    ctx.port("consumer", 1, 0, ctx.join([(0, 2), (1, 0)], couple=False))
    made = ctx.produce(1, 1)
    if ctx.has(2):
        ctx.tie(2, 0, made)
    widths = ctx.attr("qkv_hidden_sizes") or [ctx.shape(1)[1] // 3] * 3
    parts: list[Axis] = [None] * 3 if made is None else list(np.split(made, np.cumsum(widths)[:-1]))
    _share_heads(ctx, heads, parts, mask=5)
    if ctx.attr("qkv_hidden_sizes"):
        for entry, labels in enumerate(parts):
            ctx.count("qkv_hidden_sizes", entry, labels, np.array(widths))
    ctx.set([x[0], x[1], parts[2]])


@rule("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(ctx: RuleContext) -> None:
    """Queries (B, L, Q), keys (B, S, Q) and values (B, S, V) of `num_heads` heads each, and their biases (2 Q + V)."""
    _refuse(ctx, inputs=[6, 7, 8, 9], outputs=[1, 2, 3])
    if not (ctx.has(1) and ctx.has(2)) or any(len(ctx.shape(slot)) != 3 for slot in (0, 1, 2)):
        raise RuleDoesNotApply(f"{ctx.title} takes packed inputs")
    parts = [ctx.axes(slot)[2] for slot in (0, 1, 2)]
    if ctx.has(3):
        ctx.tie(3, 0, None if any(part is None for part in parts) else np.concatenate(parts))  # type: ignore[arg-type]
    _share_heads(ctx, ctx.attr("num_heads"), parts, mask=5)
    ctx.set([*ctx.axes(0)[:2], parts[2]])


@rule("Attention")
def attention(ctx: RuleContext) -> None:
    """Queries, keys and values of (B, heads, L, size), or (B, L, heads * size) and attributes that count the heads.

    1. Heads of queries that share a head of keys and values go with it.
    2. Of four axes, queries and keys may also lose the same channels of every head, provided that the scale is given
       (else it is computed from their number), and values lose theirs.
    """
    _refuse(ctx, inputs=[4, 5, 6], outputs=[1, 2, 3])
    ranks = {len(ctx.shape(slot)) for slot in (0, 1, 2)}
    if ranks == {3}:
        parts = [ctx.axes(slot)[2] for slot in (0, 1, 2)]
        shared = _share_heads(ctx, ctx.attr("kv_num_heads"), parts, mask=3, counter="kv_num_heads")
        if shared is not None:
            queries = ctx.attr("q_num_heads")
            count = np.repeat(shared, queries // len(shared))
            ctx.count("q_num_heads", 0, count, np.array([queries]))
            shared = np.repeat(shared, ctx.out_facts().shape[2] // len(shared))
        ctx.set([*ctx.axes(0)[:2], shared])
        return
    heads = [ctx.axes(slot)[1] for slot in (0, 1, 2)]
    _share_heads(ctx, ctx.shape(1)[1], heads, mask=3, counter=None)
    sizes = ctx.join([(0, 3), (1, 3)])
    if not ctx.attr("scale", 0.0):
        ctx.freeze(sizes, "scales by their number")
    ctx.set([ctx.axes(0)[0], heads[0], None, ctx.axes(2)[3]])


@rule("RotaryEmbedding", domain="com.microsoft")
@rule("RotaryEmbedding")
def rotary_embedding(ctx: RuleContext) -> None:
    """X (B, heads, L, size) or (B, L, heads * size): channels of a head turn in pairs and stay, heads go."""
    axes = list(ctx.axes(0))
    if len(axes) == 4:
        ctx.freeze(axes[3], "turns them in pairs")
        ctx.set([*axes[:3], None])
        return
    heads = ctx.attr("num_heads", 0)
    if not heads:
        raise RuleDoesNotApply(f"{ctx.title} does not say how many heads there are")
    _share_heads(ctx, heads, [axes[2]], mask=None)
    ctx.set(axes)


def _refuse(ctx: RuleContext, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Caches of keys and values are inputs and outputs of the model, which stay; so the node's channels do too."""
    made = [slot for slot in outputs if slot < len(ctx.node.outputs) and ctx.node.outputs[slot].name]
    if made or any(ctx.has(slot) for slot in inputs):
        raise RuleDoesNotApply(f"{ctx.title} keeps a cache or returns more than its result")


def _share_heads(
    ctx: RuleContext, heads: int, parts: list[Axis], mask: int | None, counter: str | None = "num_heads"
) -> Axis:
    """Make the channels of one head in all `parts` one unit: labels of shape (heads,), None where they stay.

    `mask`: the input slot of a bias on scores (..., heads or 1, L, S); `counter`: the attribute that counts heads.
    """
    free = [part for part in parts if part is not None]
    if len(free) < len(parts):
        for part in free:
            ctx.freeze(part, "joins them with an axis that cannot shrink")
        return None
    shared = free[0].reshape(heads, -1)[:, 0]
    for part in free:
        ctx.labels.equate(part.reshape(heads, -1), shared[:, None])
        ctx.labels.couple(part)
    if counter is not None:
        ctx.count(counter, 0, shared, np.array([heads]))
    if mask is not None and ctx.has(mask) and len(ctx.shape(mask)) > 2 and (size := ctx.shape(mask)[-3]) > 1:
        ctx.tie(mask, len(ctx.shape(mask)) - 3, np.repeat(shared, size // heads))
    return shared
