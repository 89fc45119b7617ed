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

    The last five compare methods layer by layer; `layer_errors` of `compress` asks for them, and they are None where
    nothing was removed or they cannot be measured. Relative to the removed channels' mean square on the calibration
    samples: `residual_error` (RE), `batch_norm_error` (BE) and `activation_error` (AE), the parts that filters,
    constants and activation have in what is missing (`lbyl_onnx.layer_errors`), and `reconstruction_error`, that of
    the three together. `moments` enters as a fit of single channels. Where nothing was restored they are those of
    leaving the channels out. `ware`: weighted average reconstruction error (see `OutputComparison`) of the consumers'
    outputs, BatchNormalization included, on the same samples, with all that earlier layers have lost.
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
    residual_error: float | None = None
    batch_norm_error: float | None = None
    activation_error: float | None = None
    reconstruction_error: float | None = None
    ware: float | None = None


@dataclass(frozen=True)
class OutputComparison:
    """One output of the original against the same output of the compressed model, over all samples.

    `sqnr_db`: signal power over error power in decibels (inf: equal); `cosine`: over the flattened outputs;
    `ware`: weighted average reconstruction error (Yu et al., NISP, CVPR 2018), the mean of alpha |y' - y| / |y| over
    samples and responses. The weight alpha is |y| / mean |y|, so responses near 0 do not make it infinite, and what is
    left is the sum of |y' - y| over that of |y| (inf where only the latter is 0). `top1_agreement`: share of samples
    with the same arg max, None where the output does not look like classes.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    sqnr_db: float
    cosine: float
    ware: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Validation:
    """Both models side by side in onnxruntime. Latencies are medians in milliseconds of one run of the same
    `latency_batch` samples; accuracies are top-1 in [0, 1], None without labels. `free_outputs`: names of those that
    cannot be compared, as their sizes follow values and differ."""

    provider: str
    data: str
    samples: int
    outputs: tuple[OutputComparison, ...]
    latency_batch: int
    latency_before_ms: float
    latency_after_ms: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    free_outputs: tuple[str, ...] = ()

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
