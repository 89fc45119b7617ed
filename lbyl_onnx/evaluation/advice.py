"""Sentences for people: what was not used, why nothing could go, what to try next."""

from __future__ import annotations

from collections.abc import Sequence

from ..budgets import DROP
from ..calibration.samples import is_made_up
from ..calibration.user_samples import is_folder
from ..channels.groups import QUANTISED
from ..errors import counted
from ..model.graph import QUANTISED_SLOTS
from ..model.model import Model
from ..options import DEFAULT_LAMBDA1, DEFAULT_LAMBDA2, Options, PruneOptions, SampleOptions
from ..restoration.methods import restoration_named
from .records import Validation
from .verdict import DAMAGED, RUINED

SCALES = "--mean, --std or --input-range"
SUGGESTED_ROUNDING = 8
NOT_FASTER = 1.02
"""Speed-ups up to this are within the noise of a latency measurement."""


def option_warnings(options: Options) -> list[str]:
    """Options that do nothing in this run, and what they do to what it says."""
    prune, samples = options.prune, options.samples
    told = []
    penalties = {"lambda1": prune.lambda1 != DEFAULT_LAMBDA1, "lambda2": prune.lambda2 != DEFAULT_LAMBDA2}
    read = restoration_named(prune.restore).options
    told += [
        f"--{name} has no effect: --restore {prune.restore} does not read it"
        for name, given in penalties.items()
        if given and name not in read
    ]
    arrays = not is_made_up(samples.calibration) and not is_folder(samples.calibration)
    if arrays and samples.normalisation is not None:
        effect = "apply to the comparison only" if options.validation else "have no effect"
        told.append(f"{SCALES} {effect}: the arrays given are taken as they are")
    if options.evaluation is not None and any(target.name == DROP for target in prune.targets):
        told.append(
            "the samples of --eval decide how much goes, so that the accuracy on them is a little too good; compare on "
            "others with lbyl-onnx validate --data"
        )
    return told


def unused_beside_data(data: object, options: SampleOptions) -> list[str]:
    """Options that do nothing in a comparison on `data`."""
    if data is None:
        return []
    told = ["--seed has no effect: no samples are made up beside --data"] if options.seed else []
    if is_folder(data):
        return told
    taken = "the arrays of --data are taken as they are"
    told += [f"{SCALES} have no effect: {taken}"] if options.normalisation is not None else []
    return told + ([f"--shape has no effect: {taken}"] if options.shapes else [])


def why_nothing(model: Model, reasons: list[str | None], options: PruneOptions) -> str:
    """Why no unit of a model can go. `reasons`: of each group, None where the options alone are in the way."""
    name = model.name
    if not reasons:
        return f"{name}: nothing to remove: {_why_no_group(model)}"
    told = [reason for reason in reasons if reason]
    if len(told) < len(reasons):
        rounded = ", rounded to what kernels want" if options.by_sensitivity else ""
        if options.round_to is not None:
            rounded = f", rounded to multiples of {options.round_to}" if options.round_to > 1 else ""
        advice = "ask for more, or give a smaller --round-to" if rounded else "ask for more"
        return f"{name}: nothing to remove at {options.asked}{rounded}; {advice}"
    common = max(dict.fromkeys(told), key=told.count)
    groups = counted(len(told), "group")
    return f"{name}: nothing to remove in {groups}; most often: {common} (lbyl-onnx inspect lists all)"


def _why_no_group(model: Model) -> str:
    """Why no weights were found in a model; DequantizeLinear says nothing, as it also follows values."""
    found = sorted((QUANTISED_SLOTS.keys() - {"DequantizeLinear"}) & {node.op_type for node in model.proto.graph.node})
    if found:
        return f"the weights of its {' and '.join(found)} nodes are {QUANTISED}"
    return "it has no Conv, Gemm or MatMul weight whose output channels feed another one"


def ranked_otherwise(criteria: Sequence[str | None], options: PruneOptions) -> list[str]:
    """Which groups the criterion could not rank. `criteria`: what ranked each group, None where nothing did."""
    others = sorted({criterion for criterion in criteria if criterion} - {options.criterion})
    if not others:
        return []
    count = sum(criterion in others for criterion in criteria)
    have, were = ("has", "it was") if count == 1 else ("have", "they were")
    return [
        f"{counted(count, 'group')} {have} no consumer whose input {options.criterion} can measure; {were} "
        f"ranked by {', '.join(others)}"
    ]


def damage_warnings(validation: Validation | None, options: Options) -> tuple[str, ...]:
    """What to try where the result cannot be used."""
    if validation is None:
        return ()
    found = validation.verdict
    if found is None and validation.silent_outputs:
        return (
            "nothing is known of the result: all samples get the same outputs; give samples like those it will see "
            "with --calibration",
        )
    if found is None or found.level not in (DAMAGED, RUINED):
        return ()
    made_up = is_made_up(options.samples.calibration) and restoration_named(options.prune.restore).needs_samples
    advice = ", or give samples like those it will see with --calibration" if made_up else ""
    return (f"the result is {found.level}, do not use it as it is: {found.reason}; ask for less{advice}",)


def speed_warnings(validation: Validation | None, prune: PruneOptions) -> tuple[str, ...]:
    """What to try where the result is not faster."""
    if validation is None or not validation.speedup <= NOT_FASTER:
        return ()
    size = prune.round_to or (None if prune.by_sensitivity else 1)
    if size is None:
        advice = "leave it as it is, or ask for --target latency=0.9"
    elif size % SUGGESTED_ROUNDING:
        advice = f"try --round-to {SUGGESTED_ROUNDING} (or {2 * SUGGESTED_ROUNDING})"
    else:
        advice = f"try --round-to {2 * size}, or ask for --target latency=0.9"
    faster = "hardly faster" if validation.speedup > 1 else "not faster"
    return (
        f"the result is {faster}: {validation.latency_after_ms:.3g} ms, original "
        f"{validation.latency_before_ms:.3g} ms; onnxruntime's kernels work in blocks of 8 or 16 channels: {advice}",
    )
