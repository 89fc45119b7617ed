"""What the restoration of each layer leaves, measured: the terms that LBYL's analysis splits it into, and its WARE.

Kept channels k stand in for a removed channel j. With n the output of the folded producer, a what
the consumer reads and d = a - n what the activation in between adds, a_j - sum_k S_jk a_k - c_j is what is missing, in
three parts, each with its error (Lee, Kim, Choi, arXiv 2502.08474):

1. residual error RE, Var[n_j - sum_k S_jk n_k]: the kept filters do not make up the removed one;
2. BN error BE, (E[n_j - sum_k S_jk n_k] - c_j)^2: nor does the constant that BatchNormalization and bias add;
3. activation error AE, E[(d_j - sum_k S_jk d_k)^2]: the activation of a sum is not the sum of activations.

The paper argues from weights; here they are means over samples and positions. All are summed over the removed channels
and divided by the sum of E[a_j^2]. Parts of opposite sign cancel, so the reconstruction error, that of the three
together, can be less than any of them. Whatever else lies between producer and consumer counts as activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..calibration.ridge_regression import ridge_solution
from ..calibration.samples import Calibration
from ..calibration.staged_run import CalibratedRun, StagedRun
from ..channels.folding import FoldedReader
from ..channels.groups import Analysis, ChannelGroup
from ..model.graph import GraphIndex
from ..restoration.from_weights import mixing_of, no_consumer
from ..restoration.methods import RESTORATIONS, Restored, RestoreTask
from ..selection.consumer_moments import MAX_ROWS, consumer_input
from ..selection.plan import Choice, Plan
from .records import LayerErrors

Place = tuple[str, int]
"""An activation's name and its axis of channels, counted from the front."""


def measure_errors(task: RestoreTask, restored: Restored, calibration: Calibration) -> tuple[LayerErrors, ...]:
    """The errors of every group, in the plan's order, on the first samples of `calibration`.

    `task`, `restored`: what was to be done, and what came of it. RE, BE and AE come from one run of the original, in
    which BatchNormalization uses the statistics of synthetic samples, as in `moments` and `obs`; WARE from one run of
    each model as it is. Raises MeasurementFailed where onnxruntime refuses a run.
    """
    share = calibration.front
    terms = _Terms(task, share).measure(restored)
    wares = _wares(task, restored, share)
    return tuple(
        replace(terms.get(number, LayerErrors()), ware=wares.get(number)) for number in range(len(task.plan.choices))
    )


# ---- residual, BN and activation error


@dataclass(frozen=True)
class _Subject:
    """A group that lost units and the method that restored it: where its folded producer ends, with the channel of
    every unit, int64 (units,), and the inputs of its consumers, with the channels of every unit, int64 (units, channels
    per unit)."""

    choice: Choice
    method: str | None
    output: Place
    channels: np.ndarray
    inputs: dict[Place, np.ndarray]


class _Terms:
    def __init__(self, task: RestoreTask, calibration: Calibration) -> None:
        self._task = task
        self._analysis = task.analysis
        self._index = GraphIndex(task.analysis.model)
        self._reader = FoldedReader(task.analysis.model)
        self._limit = max(MAX_ROWS // len(calibration.batches), 1)
        self._run = CalibratedRun(task.analysis.model, calibration, task.runtime).run

    def measure(self, restored: Restored) -> dict[int, LayerErrors]:
        """RE, BE, AE and reconstruction error of each group in which they can be measured, by its number."""
        pairs = zip(self._task.plan.choices, restored.outcomes, strict=True)
        found = [self._subject(choice, outcome.restored) for choice, outcome in pairs]
        pending = {number: subject for number, subject in enumerate(found) if subject is not None}
        made = self._index.numbers
        needed = {place for subject in pending.values() for place in (subject.output, *subject.inputs)}
        rows: dict[Place, np.ndarray] = {}
        measured = {}
        try:
            for place in sorted(needed, key=lambda place: made.get(place[0], -1)):
                rows[place] = self._sample(place)
                complete = [n for n, each in pending.items() if {each.output, *each.inputs} <= rows.keys()]
                for number in complete:
                    measured[number] = self._errors(pending.pop(number), rows)
                kept = {place for subject in pending.values() for place in (subject.output, *subject.inputs)}
                rows = {place: value for place, value in rows.items() if place in kept}
        finally:
            self._run.close()
        return measured

    def _subject(self, choice: Choice, method: str | None) -> _Subject | None:
        """None where nothing was removed, no single layer makes the channels or no consumer's input can be measured."""
        group = choice.group
        layer = self._reader.single(group) if choice.removed.any() else ""
        if isinstance(layer, str):
            return None
        inputs = {}
        for consumer in group.consumers:
            place = consumer_input(self._index, consumer)
            if place is not None and no_consumer(consumer, group.units) is None:
                name, axis = place
                inputs[name, axis % self._rank(name)] = consumer.features_of(group.units)
        if not inputs:
            return None
        output = layer.output, self._channel_axis(layer.output, group)
        return _Subject(choice, method, output, layer.axis.features_of(group.units)[:, 0], inputs)

    def _rank(self, name: str) -> int:
        return len(self._analysis.probe.tensors[name].shape)

    def _channel_axis(self, name: str, group: ChannelGroup) -> int:
        class_of = self._analysis.classes.class_of
        axes = self._analysis.labelling.axes[name]
        return next(
            axis for axis, labels in enumerate(axes) if labels is not None and class_of[labels[0]] in group.classes
        )

    def _sample(self, place: Place) -> np.ndarray:
        """Rows (positions, channels) of an activation, float32; activations of one shape give the same positions."""
        name, axis = place
        self._run.reach(name)
        taken = []
        for batch, value in enumerate(self._run.values(name)):
            rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
            if len(rows) > self._limit:
                rows = rows[np.random.default_rng(batch).choice(len(rows), self._limit, replace=False)]
            taken.append(rows.astype(np.float32))
        return np.concatenate(taken)

    def _errors(self, subject: _Subject, rows: dict[Place, np.ndarray]) -> LayerErrors:
        """The errors of one group, over the inputs of all its consumers."""
        removed = subject.choice.removed
        before = rows[subject.output][:, subject.channels]
        shapes = self._analysis.probe.tensors
        energies = np.zeros(5)
        for (name, axis), channels in subject.inputs.items():
            after = rows[name, axis][:, channels].transpose(0, 2, 1).reshape(-1, len(removed))
            if not all(len(each) and np.isfinite(each).all() for each in (before, after)):
                return LayerErrors()
            after = after[:: -(-len(after) // MAX_ROWS)]
            mixing, offset = self._replacement(subject, after)
            alike = axis == subject.output[1] and shapes[name].shape == shapes[subject.output[0]].shape
            energies += error_energies(before, after, removed, mixing, offset, alike and before.shape == after.shape)
        if energies[-1] == 0:
            return LayerErrors()
        return LayerErrors(*(float(ratio) if np.isfinite(ratio) else None for ratio in energies[:-1] / energies[-1]))

    def _replacement(self, subject: _Subject, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S and c by which the group's method replaces removed units; zero where it did not."""
        removed = subject.choice.removed
        method = None if subject.method is None else RESTORATIONS[subject.method]
        if method is not None and method.needs_samples:
            return channel_fit(after, removed)
        offset = np.zeros(int(removed.sum()))
        layer = self._reader.single(subject.choice.group)
        if method is None or method.mixer is None or isinstance(layer, str):
            return np.zeros((len(offset), len(removed) - len(offset))), offset
        return mixing_of(layer, removed, method.mixer, self._task.options)[2], offset


def error_energies(
    before: np.ndarray,
    after: np.ndarray,
    removed: np.ndarray,
    mixing: np.ndarray,
    offset: np.ndarray,
    alike: bool,
) -> np.ndarray:
    """RE, BE, AE and reconstruction error, and the energy that they are relative to, float64 (5,).

    `before`: n, (positions, units); `after`: a, (positions, units), at the same positions if `alike`, else AE is nan.
    `removed`: bool (units,); `mixing`: S, (removed, kept); `offset`: c, (removed,).
    """
    transfer = mixing.T.astype(before.dtype)
    inside = before[:, removed] - before[:, ~removed] @ transfer
    outside = after[:, removed] - after[:, ~removed] @ transfer
    constant = inside.mean(axis=0, dtype=np.float64) - offset
    return np.array(
        [
            inside.var(axis=0, dtype=np.float64).sum(),
            constant @ constant,
            _energy(outside - inside) if alike else np.nan,
            _energy(outside - offset),
            _energy(after[:, removed]),
        ]
    )


def _energy(rows: np.ndarray) -> float:
    return float((rows.astype(np.float64) ** 2).mean(axis=0).sum())


def channel_fit(after: np.ndarray, removed: np.ndarray, ridge: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """S and c with which kept channels predict removed ones best, float64 (removed, kept) and (removed,).

    `moments` fits whole patches; this is its equivalent for single channels, by ridge regression on `after`,
    (positions, units), of strength `ridge` relative to the mean diagonal. Its errors are those on the samples that it
    was fitted to.
    """
    mean = after.mean(axis=0, dtype=np.float64)
    centred = after - mean
    kept, gone = centred[:, ~removed], centred[:, removed]
    gram = kept.T @ kept
    strength = ridge * np.trace(gram) / len(gram) or 1.0
    mixing = ridge_solution(gram, strength, kept.T @ gone).T
    return mixing, mean[removed] - mixing @ mean[~removed]


# ---- WARE


def _wares(task: RestoreTask, restored: Restored, calibration: Calibration) -> dict[int, float]:
    """WARE over the outputs of each group's consumers, by group number, for those that lost units."""
    analysis, plan = task.analysis, task.plan
    ends = _ends(
        analysis, {axis.node for choice in plan.choices if choice.removed.any() for axis in choice.group.consumers}
    )
    present = {name for node in restored.model.proto.graph.node for name in node.output}
    made = GraphIndex(analysis.model).numbers
    visits = sorted(
        (made[ends[consumer.node]], ends[consumer.node], number)
        for number, choice in enumerate(plan.choices)
        for consumer in choice.group.consumers
        if choice.removed.any() and ends[consumer.node] in present
    )
    sums = np.zeros((len(plan.choices), 2))
    runs = [StagedRun(model, calibration.batches, task.runtime) for model in (analysis.model, restored.model)]
    try:
        for _, name, number in visits:
            for run in runs:
                run.reach(name)
            for old, new in zip(*(run.values(name) for run in runs), strict=True):
                reference = _kept_part(analysis, plan, name, old).astype(np.float64)
                sums[number] += np.abs(new.astype(np.float64) - reference).sum(), np.abs(reference).sum()
    finally:
        for run in runs:
            run.close()
    return {number: error / size for number, (error, size) in enumerate(sums.tolist()) if size > 0 and error < np.inf}


def _ends(analysis: Analysis, numbers: set[int]) -> dict[int, str]:
    """Outputs of nodes, by their number; of weight layers, those of the folded layer, for a BatchNormalization may make
    up for what its convolution lacks."""
    nodes = analysis.model.proto.graph.node
    reader = FoldedReader(analysis.model)
    ends = {number: nodes[number].output[0] for number in numbers}
    for group in analysis.groups:
        for axis in group.producers:
            if axis.node in numbers and (layer := reader.read(axis)) is not None:
                ends[axis.node] = layer.output
    return ends


def _kept_part(analysis: Analysis, plan: Plan, name: str, value: np.ndarray) -> np.ndarray:
    """What is left of an activation once the plan's units are gone."""
    for axis, labels in enumerate(analysis.labelling.axes[name]):
        if labels is not None and not (mask := plan.kept[analysis.classes.class_of[labels]]).all():
            value = np.compress(mask, value, axis=axis)
    return value
