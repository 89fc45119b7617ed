"""The records that `compress`, `inspect` and `validate` return, and their JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileReport:
    """One model file. `parameters`: elements of floating-point constants; `macs`: multiply-accumulates of
    one forward pass at the probed input shape; `bytes`: size on disk, external data included."""

    path: str | None
    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class GroupReport:
    """One channel group.

    `producers` and `consumers` are node names; `parameters` counts the elements of every constant that
    carries the group's channels, `macs` the multiply-accumulates of its producers and consumers.
    `frozen_reason` says why none of its units may go (None: they may). `restored` names the restoration
    that was applied, `note` why a consumer was left without one. `error` is the relative error that the restoration
    leaves, in the measure of its method (None: nothing removed or nothing restored): for `lbyl` and
    `neuron-merging` the share of the removed filters' energy, for `moments` the largest share of a consumer's output
    variance on the calibration samples. `predicted_error`: the share that the criterion `obs` expected to lose;
    `condition`: the largest condition number of a consumer's system; `recalibrated`: nodes among producers and
    consumers whose outputs had mean and variance matched.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    units_before: int
    units_after: int
    parameters: int
    macs: int
    coupled: bool
    frozen_reason: str | None = None
    restored: str | None = None
    note: str | None = None
    error: float | None = None
    predicted_error: float | None = None
    condition: float | None = None
    recalibrated: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputComparison:
    """One output of the original against the same output of the compressed model, over all samples.

    `sqnr_db`: signal power over error power in decibels (inf: equal); `cosine`: over the flattened outputs;
    `top1_agreement`: share of samples with the same arg max, None where the output does not look like classes.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Validation:
    """Both models side by side in onnxruntime. Latencies are medians in milliseconds of one run of the same
    `latency_batch` samples; accuracies are top-1 in [0, 1], None without labels."""

    provider: str
    data: str
    samples: int
    outputs: tuple[OutputComparison, ...]
    latency_batch: int
    latency_before_ms: float
    latency_after_ms: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def speedup(self) -> float:
        """Latency of the original over latency of the result."""
        return self.latency_before_ms / self.latency_after_ms


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: the file and its channel groups."""

    input: FileReport
    groups: tuple[GroupReport, ...]

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)


@dataclass(frozen=True)
class Report:
    """What `compress` did. `options` are the options in force, `calibration` says what activations were measured on
    (None: not measured), `seconds` is the wall time of the call,
    `warnings` sentences a user should read."""

    input: FileReport
    output: FileReport
    options: dict[str, object]
    calibration: str | None
    groups: tuple[GroupReport, ...]
    validation: Validation | None
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)


def to_json(record: Inspection | Report | Validation) -> str:
    """A report as indented JSON; non-finite floats become null, because JSON has none."""
    return json.dumps(_finite(asdict(record)), indent=2)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
