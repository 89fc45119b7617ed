"""The records that `compress`, `inspect` and `validate` return."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..calibration.changes import ROUNDED_DB, energy_share
from ..calibration.classes import is_sure
from ..calibration.samples_used import SamplesUsed
from ..errors import counted
from ..options import Options
from ..restoration.methods import Outcome
from .json_form import from_json, to_json
from .planned import Planned


@dataclass(frozen=True)
class FileReport:
    """One model file. `parameters`: elements of floating-point constants and of quantised weights; `macs`:
    multiply-accumulates of one forward pass at the probed input shape; `bytes`: size on disk, external data
    included."""

    path: str | None
    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class LayerReport:
    """One layer of weights, by its node: `op`, channels of its output and multiply-accumulates, before and after."""

    name: str
    op: str
    channels_before: int
    channels_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class LayerErrors:
    """What the restoration of one group leaves, to compare methods layer by layer; None where nothing was removed or it
    cannot be measured.

    Relative to the removed channels' mean square on the calibration samples: `residual_error` (RE),
    `batch_norm_error` (BE) and `activation_error` (AE), the parts that filters, constants and activation have in what
    is missing (`lbyl_onnx.evaluation.layer_errors`), and `reconstruction_error`, that of the three together. `moments`
    enters as a fit of single channels. Where nothing was restored they are those of leaving the channels out. `ware`:
    weighted average reconstruction error (see `OutputComparison`) of the consumers' outputs, BatchNormalization
    included, on the same samples, with all that earlier layers have lost.
    """

    residual_error: float | None = None
    batch_norm_error: float | None = None
    activation_error: float | None = None
    reconstruction_error: float | None = None
    ware: float | None = None


@dataclass(frozen=True)
class GroupReport:
    """One channel group.

    `producers` and `consumers` are node names; `parameters` counts the elements of every constant that
    carries the group's channels, `macs` the multiply-accumulates of its producers and consumers.
    `frozen_reason` says why none of its units may go (None: they may). `criterion`: what ranked the units (None:
    nothing was removed); `predicted_error`: the share of its consumers' output variance that this criterion expected
    to lose. `outcome`: what was made up for, and how well; `errors`: see `LayerErrors`.
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
    criterion: str | None = None
    predicted_error: float | None = None
    outcome: Outcome = field(default_factory=Outcome)
    errors: LayerErrors = field(default_factory=LayerErrors)


@dataclass(frozen=True)
class ClassComparison:
    """What the answers of a classifier lost, over all samples (`lbyl_onnx.evaluation.class_scores`).

    `agreement`: share of samples with the same top-1. `divergence`: mean Kullback-Leibler divergence of the result's
    class probabilities from the original's, in nats. `confidence`: mean probability of the original's top-1.
    `expected_loss`: of accuracy, in [0, 1], were the original as often right as it is sure, and its 95 % interval; on
    made-up samples times 1.5, as losses on them are that much smaller, and on images below 64 pixels times 0.5.
    """

    agreement: float
    divergence: float
    confidence: float
    expected_loss: float
    expected_loss_interval: tuple[float, float]


@dataclass(frozen=True)
class PositionComparison:
    """What the answers at the positions of an output lost, such as those of a segmented image or of a line of text.

    `agreement`: share of the positions with the same top-1; of large outputs some are looked at. `lost`: share of what
    the original's answers tell of their sample: the Kullback-Leibler divergence of the result's class probabilities
    from the original's, over that of the mean over samples, both summed over positions; None where that is not known.
    """

    agreement: float
    lost: float | None


@dataclass(frozen=True)
class OutputComparison:
    """One output of the original against the same output of the compressed model, over all samples.

    `sqnr_db`: signal power over error power in decibels (inf: equal); `variation_db`: the same of the part that differs
    between samples, without what they have in common, such as a detector's anchors (None: one sample, or sizes that
    differ); `cosine`: over the flattened outputs;
    `ware`: weighted average reconstruction error (Yu et al., NISP, CVPR 2018), the mean of alpha |y' - y| / |y| over
    samples and responses. The weight alpha is |y| / mean |y|, so responses near 0 do not make it infinite, and what is
    left is the sum of |y' - y| over that of |y| (inf where only the latter is 0). `classes`: what its answers lost,
    None where the output does not look like classes; `positions`: the same of answers at each position.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    sqnr_db: float
    cosine: float
    ware: float
    classes: ClassComparison | None = None
    variation_db: float | None = None
    positions: PositionComparison | None = None

    @property
    def error_share(self) -> float:
        """Error power over signal power."""
        return energy_share(self.sqnr_db)

    @property
    def told_db(self) -> float:
        """Decibels of what tells samples apart over error; of the whole signal where that is not known, or where the
        error may be rounding."""
        return self.sqnr_db if self.variation_db is None or self.sqnr_db >= ROUNDED_DB else self.variation_db

    @property
    def answers(self) -> ClassComparison | None:
        """What its answers lost; None where the original is no classifier, as it is not sure enough of some class."""
        sure = self.classes is not None and is_sure(self.classes.confidence, self.shape[1])
        return self.classes if sure else None

    @property
    def top1_agreement(self) -> float | None:
        """Share of samples or positions with the same top-1; None where the output does not look like classes."""
        found = self.classes or self.positions
        return None if found is None else found.agreement

    @property
    def divergence(self) -> float:
        """How far it moved, as `selection.divergence` tells it."""
        if self.answers is not None:
            return self.answers.divergence
        lost = None if self.positions is None else self.positions.lost
        return energy_share(self.told_db) if lost is None else lost


@dataclass(frozen=True)
class Verdict:
    """Whether the result can be used. `level`: "intact", "worn", "damaged" or "ruined"; `reason`: what says so, in
    words."""

    level: str
    reason: str


@dataclass(frozen=True, repr=False)
class Validation:
    """Both models side by side in onnxruntime. Latencies are medians in milliseconds of one run of the same
    `latency_batch` samples, not finite where they were not measured; accuracies are top-1 in [0, 1], None without
    labels. `free_outputs`: names of those that cannot be compared, as their sizes follow values and differ;
    `silent_outputs`: of those that say nothing, as both models give all samples the same. `verdict`: what the outputs
    say, None where there is none to compare; `warnings`: sentences a user should read;
    `latency_quantiles_ms`: of single runs of the original and of the result, from the shortest to the longest, in equal
    shares of the runs, empty where they were not measured."""

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
    silent_outputs: tuple[str, ...] = ()
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    latency_quantiles_ms: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def __repr__(self) -> str:
        worst = min((output.sqnr_db for output in self.outputs), default=float("inf"))
        outputs, samples = counted(len(self.outputs), "output"), counted(self.samples, "sample")
        return (
            f"<Validation: {outputs} on {samples}, SQNR from {worst:.1f} dB, latency "
            f"{self.latency_before_ms:.3g} -> {self.latency_after_ms:.3g} ms on {self.provider}>"
        )

    @property
    def speedup(self) -> float:
        """Latency of the original over latency of the result."""
        return self.latency_before_ms / self.latency_after_ms

    @property
    def timed(self) -> bool:
        """Whether latencies were measured."""
        return math.isfinite(self.latency_after_ms)

    @property
    def divergence(self) -> float:
        """How far the outputs moved, on average over them."""
        return float(np.mean([output.divergence for output in self.outputs])) if self.outputs else 0.0


@dataclass(frozen=True, repr=False)
class Inspection:
    """What `inspect` found: the file and its channel groups."""

    input: FileReport
    groups: tuple[GroupReport, ...]

    def __repr__(self) -> str:
        groups = counted(len(self.groups), "group")
        return f"<Inspection of {self.input.path}: {groups}, {self.input.parameters:,} parameters>"

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)


@dataclass(frozen=True)
class Versions:
    """What ran: this package, onnxruntime and its provider."""

    lbyl_onnx: str
    onnxruntime: str
    provider: str


@dataclass(frozen=True)
class PruningBound:
    """How far cutting alone can move the output y, in the Euclidean norm, said from norms of weights and second moments
    of activations (`lbyl_onnx.bounds`), and how far it did.

    `root_mean_square`: at least the root of the mean of |y' - y|² over the samples that the run was judged on, and
    where units were drawn (`random`) over the draw too; `measured`: that root for the units that did go; `size`: that
    of y itself, beyond which a bound says nothing. `gap`: exceeded with a probability of at most `delta`. `reason`: why
    there is no bound, None where there is one.
    """

    random: bool = False
    root_mean_square: float | None = None
    measured: float | None = None
    size: float | None = None
    delta: float | None = None
    gap: float | None = None
    reason: str | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """What `compress` did. `options`: what was asked for, enough to repeat the run; `calibration`: what activations
    were measured on (None: not measured); `fallbacks`: what was done otherwise than asked, and why; `seconds`: the
    wall time of the call; `warnings`: sentences a user should read; `layers`: in the graph's order; `planned`: what was
    expected of the plan, None where all groups lost the same share; `samples`: those of the user's own that were
    measured, judged or decided on; `bound`: what cutting alone can cost at most, None where units were made up for."""

    versions: Versions
    options: Options
    input: FileReport
    output: FileReport
    calibration: str | None
    groups: tuple[GroupReport, ...]
    validation: Validation | None
    seconds: float
    fallbacks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    layers: tuple[LayerReport, ...] = ()
    planned: Planned | None = None
    samples: SamplesUsed = field(default_factory=SamplesUsed)
    bound: PruningBound | None = None

    def __repr__(self) -> str:
        before, after = self.input, self.output
        return (
            f"<Report: {before.parameters:,} -> {after.parameters:,} parameters, {before.macs:,} -> {after.macs:,} "
            f"MACs, {counted(len(self.groups), 'group')}, {counted(len(self.warnings), 'warning')}>"
        )

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The record that `to_json` wrote. Raises ValueError where the text is none."""
        return from_json(cls, text)
