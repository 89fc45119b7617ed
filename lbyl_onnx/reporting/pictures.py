"""Which pictures a record allows, each with a title and one sentence that explains it."""

from __future__ import annotations

from functools import partial

from ..evaluation.records import Report
from .curves import draw_frontier, draw_sensitivities, measured_groups
from .figures import Picture
from .network import cut_groups, draw_errors, draw_layers
from .savings import draw_latencies, draw_left

LEFT, LAYERS, SENSITIVITY, FRONTIER, ERRORS, LATENCY = "left", "layers", "sensitivity", "frontier", "errors", "latency"
NAMES = (LEFT, LAYERS, SENSITIVITY, FRONTIER, ERRORS, LATENCY)
"""All pictures, in the order of the page."""


def pictures(report: Report) -> dict[str, Picture]:
    """The pictures of a report by name; those without numbers are left out."""
    found = [
        Picture(
            LEFT,
            "What is left of the original",
            "Each bar is what the result needs, as a share of what the original needs: shorter is better.",
            partial(draw_left, report),
            2.6,
        )
    ]
    if report.layers:
        found.append(
            Picture(
                LAYERS,
                "The network, layer by layer",
                "Each bar is a layer of weights, as high as it has channels; the upper part of it went.",
                partial(draw_layers, report),
            )
        )
    planned, validation = report.planned, report.validation
    if planned is not None and measured_groups(planned):
        found.append(
            Picture(
                SENSITIVITY,
                "What each group of channels is worth",
                "Each line is a group of channels that can only go together; the higher it runs, the more the outputs "
                "suffer without that share of it, and the points show how much this run took.",
                partial(draw_sensitivities, planned),
                3.6,
            )
        )
    if planned is not None and planned.frontier:
        found.append(
            Picture(
                FRONTIER,
                "What other budgets would cost",
                "To the left the result does less work, upwards its outputs are farther from the original's.",
                partial(draw_frontier, report, planned),
                3.4,
            )
        )
    if cut_groups(report):
        found.append(
            Picture(
                ERRORS,
                "What was lost on the way",
                "For each group that lost channels: the share of them that the others could not make up for, and how "
                "far off the layers are that read it; lower is better, and 1 would mean that all is lost.",
                partial(draw_errors, report),
            )
        )
    if validation is not None and all(validation.latency_quantiles_ms):
        found.append(
            Picture(
                LATENCY,
                "How long a run takes",
                "Half of the runs lie in the box and nine in ten on the line, the gap in the box is the median, and "
                "each tick below stands for a twentieth of the runs; further to the left is faster.",
                partial(draw_latencies, report, validation),
                2.5,
            )
        )
    return {picture.name: picture for picture in found}
