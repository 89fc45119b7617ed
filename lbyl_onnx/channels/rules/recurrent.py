"""Recurrent layers: an input weight takes channels, hidden units are made, fed back and taken."""

from __future__ import annotations

import numpy as np

from ..rule_context import RuleContext
from .registry import rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule(*GATES)
def recurrent(ctx: RuleContext) -> None:
    """X (L, B, I), W (D, gates * H, I), R (D, gates * H, H), B (D, 2 * gates * H), initial states (D, B, H), and
    peepholes (D, 3 * H).

    1. W takes the channels of X. 2. A hidden unit is a row of every gate in W, R and B, and a column of R, which takes
    it; both directions lose the same units. 3. `hidden_size` counts those left.
    """
    gates = GATES[ctx.op]
    for slot in (0, 5, 6):
        for labels in ctx.axes(slot)[:2] if ctx.has(slot) else []:
            ctx.freeze(labels, "runs over them")
    ctx.port("consumer", 1, 2, ctx.join([(0, 2), (1, 2)], couple=False))
    hidden = ctx.join([(2, 2), *((slot, 2) for slot in (5, 6) if ctx.has(slot))], couple=False)
    ctx.port("consumer", 2, 2, hidden)
    ctx.labels.couple(hidden)
    repeats = {1: gates, 2: gates, 3: 2 * gates, 7: 3}
    for slot, times in repeats.items():
        if ctx.has(slot):
            ctx.tie(slot, 1, None if hidden is None else np.tile(hidden, times))
    ctx.port("producer", 1, 1, None if hidden is None else np.tile(hidden, gates))
    ctx.count("hidden_size", 0, hidden, np.array([ctx.shape(2)[2]]))
    for slot, tensor in enumerate(ctx.node.outputs):
        if tensor.name:
            rank = len(ctx.out_facts(slot).shape)
            ctx.set([*([None] * (rank - 1)), hidden], slot)
