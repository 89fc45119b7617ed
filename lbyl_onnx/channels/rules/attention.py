"""Attention as one operator: whole heads go, and the attributes that count heads follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..labelling import RuleDoesNotApply, Site
from ..labels import Axis
from .registry import rule


@rule("Attention", domain="com.microsoft")
def attention_with_weights(site: Site) -> None:
    """X (B, L, D), weights (D, Q + K + V), bias (Q + K + V), where Q, K and V hold `num_heads` heads each."""
    _refuse(site, inputs=[4, 6], outputs=[1])
    heads = site.attr("num_heads")
    x = site.axes(0)
    site.port("consumer", 1, 0, site.join([(0, 2), (1, 0)], couple=False))
    made = site.produce(1, 1)
    if site.has(2):
        site.tie(2, 0, made)
    widths = site.attr("qkv_hidden_sizes") or [site.shape(1)[1] // 3] * 3
    parts: list[Axis] = [None] * 3 if made is None else list(np.split(made, np.cumsum(widths)[:-1]))
    _share_heads(site, heads, parts, mask=5)
    if site.attr("qkv_hidden_sizes"):
        for entry, labels in enumerate(parts):
            site.count("qkv_hidden_sizes", entry, labels, np.array(widths))
    site.set([x[0], x[1], parts[2]])


@rule("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(site: Site) -> None:
    """Queries (B, L, Q), keys (B, S, Q) and values (B, S, V) of `num_heads` heads each, and their biases (2 Q + V)."""
    _refuse(site, inputs=[6, 7, 8, 9], outputs=[1, 2, 3])
    if not (site.has(1) and site.has(2)) or any(len(site.shape(slot)) != 3 for slot in (0, 1, 2)):
        raise RuleDoesNotApply(f"{site.title} takes packed inputs")
    parts = [site.axes(slot)[2] for slot in (0, 1, 2)]
    if site.has(3):
        site.tie(3, 0, None if any(part is None for part in parts) else np.concatenate(parts))  # type: ignore[arg-type]
    _share_heads(site, site.attr("num_heads"), parts, mask=5)
    site.set([*site.axes(0)[:2], parts[2]])


@rule("Attention")
def attention(site: Site) -> None:
    """Queries, keys and values of (B, heads, L, size), or (B, L, heads * size) and attributes that count the heads.

    1. Heads of queries that share a head of keys and values go with it.
    2. Of four axes, queries and keys may also lose the same channels of every head, provided that the scale is given
       (else it is computed from their number), and values lose theirs.
    """
    _refuse(site, inputs=[4, 5, 6], outputs=[1, 2, 3])
    ranks = {len(site.shape(slot)) for slot in (0, 1, 2)}
    if ranks == {3}:
        parts = [site.axes(slot)[2] for slot in (0, 1, 2)]
        shared = _share_heads(site, site.attr("kv_num_heads"), parts, mask=3, counter="kv_num_heads")
        if shared is not None:
            queries = site.attr("q_num_heads")
            count = np.repeat(shared, queries // len(shared))
            site.count("q_num_heads", 0, count, np.array([queries]))
            shared = np.repeat(shared, site.out_facts().shape[2] // len(shared))
        site.set([*site.axes(0)[:2], shared])
        return
    heads = [site.axes(slot)[1] for slot in (0, 1, 2)]
    _share_heads(site, site.shape(1)[1], heads, mask=3, counter=None)
    sizes = site.join([(0, 3), (1, 3)])
    if not site.attr("scale", 0.0):
        site.freeze(sizes, "scales by their number")
    site.set([site.axes(0)[0], heads[0], None, site.axes(2)[3]])


@rule("RotaryEmbedding", domain="com.microsoft")
@rule("RotaryEmbedding")
def rotary_embedding(site: Site) -> None:
    """X (B, heads, L, size) or (B, L, heads * size): channels of a head turn in pairs and stay, heads go."""
    axes = list(site.axes(0))
    if len(axes) == 4:
        site.freeze(axes[3], "turns them in pairs")
        site.set([*axes[:3], None])
        return
    heads = site.attr("num_heads", 0)
    if not heads:
        raise RuleDoesNotApply(f"{site.title} does not say how many heads there are")
    _share_heads(site, heads, [axes[2]], mask=None)
    site.set(axes)


def _refuse(site: Site, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Caches of keys and values are inputs and outputs of the model, which stay; so the node's channels do too."""
    made = [slot for slot in outputs if slot < len(site.node.outputs) and site.node.outputs[slot].name]
    if made or any(site.has(slot) for slot in inputs):
        raise RuleDoesNotApply(f"{site.title} keeps a cache or returns more than its result")


def _share_heads(
    site: Site, heads: int, parts: list[Axis], mask: int | None, counter: str | None = "num_heads"
) -> Axis:
    """Make the channels of one head in all `parts` one unit: labels of shape (heads,), None where they stay.

    `mask`: the input slot of a bias on scores (..., heads or 1, L, S); `counter`: the attribute that counts heads.
    """
    free = [part for part in parts if part is not None]
    if len(free) < len(parts):
        for part in free:
            site.freeze(part, "joins them with an axis that cannot shrink")
        return None
    shared = free[0].reshape(heads, -1)[:, 0]
    for part in free:
        site.labels.equate(part.reshape(heads, -1), shared[:, None])
        site.labels.couple(part)
    if counter is not None:
        site.count(counter, 0, shared, np.array([heads]))
    if mask is not None and site.has(mask) and len(site.shape(mask)) > 2 and (size := site.shape(mask)[-3]) > 1:
        site.tie(mask, len(site.shape(mask)) - 3, np.repeat(shared, size // heads))
    return shared
