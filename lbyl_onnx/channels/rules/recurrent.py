"""Recurrent layers: an input weight takes channels, hidden units are made, fed back and taken."""

from __future__ import annotations

import numpy as np

from ..labelling import Site
from .registry import rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule(*GATES)
def recurrent(site: Site) -> None:
    """X (L, B, I), W (D, gates * H, I), R (D, gates * H, H), B (D, 2 * gates * H), initial states (D, B, H), and
    peepholes (D, 3 * H).

    1. W takes the channels of X. 2. A hidden unit is a row of every gate in W, R and B, and a column of R, which takes
    it; both directions lose the same units. 3. `hidden_size` counts those left.
    """
    gates = GATES[site.op]
    for slot in (0, 5, 6):
        for labels in site.axes(slot)[:2] if site.has(slot) else []:
            site.freeze(labels, "runs over them")
    site.port("consumer", 1, 2, site.join([(0, 2), (1, 2)], couple=False))
    hidden = site.join([(2, 2), *((slot, 2) for slot in (5, 6) if site.has(slot))], couple=False)
    site.port("consumer", 2, 2, hidden)
    site.labels.couple(hidden)
    repeats = {1: gates, 2: gates, 3: 2 * gates, 7: 3}
    for slot, times in repeats.items():
        if site.has(slot):
            site.tie(slot, 1, None if hidden is None else np.tile(hidden, times))
    site.port("producer", 1, 1, None if hidden is None else np.tile(hidden, gates))
    site.count("hidden_size", 0, hidden, np.array([site.shape(2)[2]]))
    for slot, tensor in enumerate(site.node.outputs):
        if tensor.name:
            rank = len(site.out_facts(slot).shape)
            site.set([*([None] * (rank - 1)), hidden], slot)
