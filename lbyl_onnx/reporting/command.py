"""The command that repeats a run."""

from __future__ import annotations

import shlex

from ..budgets import Budget
from ..calibration.user_samples import ARRAYS
from ..evaluation.records import Report
from ..options import Normalisation, Options, PruneOptions, SampleOptions

UNITS = {"macs": "", "params": "", "bytes": "B", "latency": "ms", "drop": "%"}
IN_MEMORY = (ARRAYS, "given")
"""What stands for samples and plans that came from Python, not from files."""


def command(report: Report) -> str:
    """The command that repeats a run, quoted for a POSIX shell, one option a line; defaults are left out."""
    first = ["lbyl-onnx", "compress", report.input.path or "-", report.output.path or "small.onnx"]
    options = report.options
    given = [*_pruned(options.prune), *_sampled(options.samples), *_others(options)]
    others = [shlex.quote(f"--{name}" if value is None else f"--{name}={value}") for name, value in given]
    return " \\\n  ".join([shlex.join(first), *others])


def from_memory(report: Report) -> bool:
    """Whether arrays or a plan came from Python, so that no command has them."""
    options = report.options
    return any(each in IN_MEMORY for each in (options.samples.calibration, options.evaluation, options.plan))


Given = list[tuple[str, object]]
"""Options by name, None where they take no value."""


def _pruned(prune: PruneOptions) -> Given:
    default = PruneOptions()
    found: Given = [("target", _target(target)) for target in prune.targets]
    for name in ("ratio", "allocation", "criterion", "restore", "scope", "include", "exclude", "lambda1", "lambda2"):
        value = getattr(prune, name)
        if value != getattr(default, name):
            found.append((name, value))
    if prune.round_to is not None:
        found.append(("round-to", prune.round_to))
    return found + ([("seed", prune.seed)] if prune.seed else [])


def _target(budget: Budget) -> str:
    return f"{budget.name}={budget.value!r}{'' if budget.share else UNITS[budget.name]}"


def _sampled(samples: SampleOptions) -> Given:
    default = SampleOptions()
    found: Given = []
    if samples.calibration != default.calibration:
        found.append(("calibration", samples.calibration))
    if samples.samples is not None:
        found.append(("samples", samples.samples))
    found += [("shape", f"{name}:{'x'.join(map(str, sizes))}") for name, sizes in samples.shapes.items()]
    return found + _normalised(samples.normalisation)


def _normalised(normalisation: Normalisation | None) -> Given:
    if normalisation is None:
        return []
    return [(name, ",".join(map(repr, getattr(normalisation, name)))) for name in ("mean", "std")]


def _others(options: Options) -> Given:
    runtime, limits = options.run, options.limits
    given = {
        "plan": options.plan,
        "provider": runtime.provider,
        "threads": runtime.threads,
        "custom-ops-library": runtime.custom_ops_library,
        "eval": options.evaluation,
        "min-agreement": limits.min_agreement,
        "min-sqnr": limits.min_sqnr,
        "max-drop": limits.max_drop,
    }
    found: Given = [(name, value) for name, value in given.items() if value is not None]
    found += [] if options.validation else [("no-validate", None)]
    return found + ([("report", "report.html")] if options.layer_errors else [])
