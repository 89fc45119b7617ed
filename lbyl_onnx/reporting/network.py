"""Pictures of the network: its layers with what went, and what each layer lost."""

from __future__ import annotations

from ..errors import counted
from ..evaluation.records import GroupReport, LayerReport, Report
from ..evaluation.tables import change, compact, printable
from .figures import COLOURS, Canvas

FULL = 0.86
"""Width of a bar, of the room that it has."""


def draw_layers(report: Report, canvas: Canvas) -> None:
    """One bar for each layer of weights: channels that stay, and those that went on top."""
    axes, layers = canvas.axes, report.layers
    places = range(1, len(layers) + 1)
    kept = [layer.channels_after for layer in layers]
    gone = [layer.channels_before - layer.channels_after for layer in layers]
    axes.bar(places, kept, FULL, color=COLOURS["kept"], label="stay")
    axes.bar(places, gone, FULL, bottom=kept, color=COLOURS["gone"], label="went")
    canvas.columns([layer_in_words(number, layer) for number, layer in zip(places, layers, strict=True)])
    axes.set_ylabel("channels")
    axes.grid(axis="x", visible=False)
    canvas.numbered(len(layers), "layer, from input to output")
    canvas.legend_above(2)


def layer_in_words(number: int, layer: LayerReport) -> str:
    """Name and numbers of one layer."""
    channels = counted(layer.channels_before, "channel")
    if layer.channels_after < layer.channels_before:
        channels = f"{layer.channels_before} channels, {layer.channels_after} stay"
    macs = f"{compact(layer.macs_before)} MACs"
    if layer.macs_after != layer.macs_before:
        macs += f", {compact(layer.macs_after)} stay ({change(layer.macs_before, layer.macs_after)})"
    return f"{number}. {printable(layer.name)} ({layer.op}): {channels}; {macs}"


def cut_groups(report: Report) -> list[GroupReport]:
    """Groups that lost units and whose errors were measured, in the model's order."""
    cut = [group for group in report.groups if group.units_after < group.units_before]
    return [group for group in cut if group.errors.ware is not None]


def draw_errors(report: Report, canvas: Canvas) -> None:
    """Two points for each group that lost units: what could not be made up for there, and the error behind it."""
    axes, groups = canvas.axes, cut_groups(report)
    own = [group.errors.reconstruction_error for group in groups]
    behind = [group.errors.ware for group in groups]
    series = (
        ("not made up for in this group", "o", COLOURS["gone"], own),
        ("error behind it, with all before", "D", COLOURS["kept"], behind),
    )
    for label, marker, colour, values in series:
        seen = [(place, value) for place, value in enumerate(values, 1) if value is not None and value > 0]
        axes.plot(*zip(*seen, strict=True) if seen else ([], []), marker, color=colour, markersize=4.5, label=label)
    canvas.columns([errors_in_words(number, group) for number, group in enumerate(groups, 1)])
    canvas.numbered(len(groups), "groups that lost units, from input to output")
    canvas.logarithmic("share that is error")
    canvas.legend_above(1 if canvas.narrow else 2)


def errors_in_words(number: int, group: GroupReport) -> str:
    """Name and errors of one group."""
    own, behind = group.errors.reconstruction_error, group.errors.ware
    told = [] if own is None else [f"{own:.3g} of what went is not made up for"]
    told += [] if behind is None else [f"what reads it is {behind:.3g} off"]
    went = counted(group.units_before - group.units_after, "unit")
    return f"{number}. {printable(group.name)}, {went} of {group.units_before} went: {'; '.join(told)}"
