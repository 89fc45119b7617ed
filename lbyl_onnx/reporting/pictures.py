"""Which pictures a record allows, each with a title and one sentence that explains it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..evaluation.records import Report
from .curves import draw_frontier, draw_sensitivities, measured_groups
from .figures import Canvas, Picture
from .network import cut_groups, draw_errors, draw_layers
from .savings import draw_latencies, draw_left

WORDS = {
    "left": (
        "What is left of the original",
        "Each bar is what the result needs, as a share of what the original needs: shorter is better.",
        2.6,
    ),
    "layers": (
        "The network, layer by layer",
        "Each bar is a layer of weights, as high as it has channels; the upper part of it went.",
        3.1,
    ),
    "sensitivity": (
        "What each group of channels is worth",
        "Each line is a group of channels that the same layers make; the higher it runs, the more the outputs suffer "
        "without that share of it, and the points show how much this run took.",
        3.6,
    ),
    "frontier": (
        "What other budgets would cost",
        "To the left the result does less work, upwards its outputs are farther from the original's.",
        3.4,
    ),
    "errors": (
        "What was lost on the way",
        "For each group that lost channels: the share of them that the others could not make up for, and how far off "
        "the layers are that read it; lower is better, and 1 would mean that all is lost.",
        3.1,
    ),
    "latency": (
        "How long a run takes",
        "Half of the runs lie in the box and nine in ten on the line, the gap in the box is the median, and each tick "
        "below stands for a twentieth of the runs; further to the left is faster.",
        2.5,
    ),
}
"""Title, explanation and height in inches of all pictures, in the order of the page."""


def pictures(report: Report) -> dict[str, Picture]:
    """The pictures of a report by name; those without numbers are left out."""
    planned, validation = report.planned, report.validation
    draw: dict[str, Callable[[Canvas], None]] = {"left": partial(draw_left, report)}
    if report.layers:
        draw["layers"] = partial(draw_layers, report)
    if planned is not None and measured_groups(planned):
        draw["sensitivity"] = partial(draw_sensitivities, planned)
    if planned is not None and planned.frontier:
        draw["frontier"] = partial(draw_frontier, report, planned)
    if cut_groups(report):
        draw["errors"] = partial(draw_errors, report)
    if validation is not None and all(validation.latency_quantiles_ms):
        draw["latency"] = partial(draw_latencies, report, validation)
    return {name: Picture(name, *WORDS[name], draw[name]) for name in WORDS if name in draw}
