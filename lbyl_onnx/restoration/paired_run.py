"""The original and the cut model side by side on the same samples, layer by layer, while weights still change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from ..calibration.im2col import position_count
from ..calibration.samples import Calibration
from ..calibration.staged_run import CalibratedRun
from ..channels.groups import Analysis
from ..channels.surgery import cut
from ..model.graph import Constant
from ..model.model import Model
from ..model.nodes import reads
from ..model.weight_layer import WEIGHT_OPS, WeightLayer
from ..options import RunOptions

SELECTING_OPS = ("Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique")
"""Operators that select by value: behind them a row of the cut model is not the same row of the original."""

Rows = np.ndarray


class PairedRun:
    """Both models, level with one another wherever their values are compared.

    `fitted`: the cut model that is written; `cut`: its run, in which BatchNormalization may use other statistics;
    `original`: the run of the original.
    """

    def __init__(self, analysis: Analysis, kept: np.ndarray, calibration: Calibration, options: RunOptions) -> None:
        self.analysis = analysis
        self.fitted = cut(analysis, kept)
        self.synthetic = calibration.synthetic
        self.fold_count = calibration.fold_count
        front = calibration.front
        self.original = CalibratedRun(analysis.model, calibration, options, len(front.batches))
        self.cut = CalibratedRun(self.fitted, calibration, options, len(front.batches))
        self._kept = kept
        self._folds = calibration.folds
        self._elements, self._front = calibration.elements, front.elements

    @property
    def changing(self) -> tuple[Model, Model]:
        """The two copies of the cut model that every change of a weight goes to."""
        return self.fitted, self.cut.model

    @property
    def level(self) -> int:
        """How many batches are level with the first in both runs."""
        return min(self.original.run.level, self.cut.run.level)

    def write(self, constant: Constant, value: np.ndarray) -> None:
        """A new value for a constant of the cut model."""
        for model in self.changing:
            constant.write(model, value)

    def rows(self, name: str, axis: int, front: bool = False) -> float:
        """About how many rows a tensor with channels on `axis` has for all samples, or for those in `front`."""
        return self.analysis.rows(name, axis, self._front if front else self._elements)

    def reach(self, name: str, lagging: bool) -> None:
        """Run both models up to the tensor `name`."""
        for run in (self.original.run, self.cut.run):
            run.reach(name, lagging=lagging)

    def has(self, name: str) -> bool:
        """Whether both runs still hold the values of tensor `name`, or have them ahead."""
        return self.original.run.has(name) and self.cut.run.has(name)

    def pairs(self, layer: WeightLayer, wanted: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The fold, what the layer reads in the cut model and the original's tensor `wanted`, on the same samples,
        batch by batch; without batches that have no rows, or not the same."""
        for fold, found, value in self._values(layer.data, wanted):
            if value.size and layer.pairs(found, value):
                yield fold, found, value

    def channels(self, name: str, axis: int, rows: int, rng: np.random.Generator) -> Iterator[tuple[int, Rows, Rows]]:
        """The fold, and rows (positions, channels) of tensor `name`, channels on `axis`, in the cut model and in the
        original, at the same positions, about so many over all batches."""
        for fold, found, value in self._values(name, name):
            x, y = (np.moveaxis(each, axis, -1) for each in (found, value))
            if value.size and x.shape[:-1] == y.shape[:-1]:
                x, y = (each.reshape(-1, each.shape[-1]) for each in (x, y))
                chosen = self._some(len(y), rows, rng)
                yield fold, x[chosen], y[chosen]

    def _values(self, ours: str, theirs: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The fold, the cut model's tensor `ours` and the original's `theirs`, batch by batch."""
        found, wanted = self.cut.run.values(ours, self.level), self.original.run.values(theirs, self.level)
        return zip(self._folds, found, wanted, strict=False)

    def positions(self, value: np.ndarray, layer: WeightLayer, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Positions in one batch's value, as many as make about `rows` over all batches."""
        return self._some(position_count(value, layer), rows, rng)

    def _some(self, total: int, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Which of the `total` rows of one batch to take for about `rows` of all batches."""
        share = rows // self.level + 1
        return np.arange(total) if total <= share else rng.choice(total, share, replace=False)

    def kept_channels(self, name: str, axis: int) -> np.ndarray:
        """Which channels of the original's tensor `name` the cut model has, bool (channels,)."""
        labels = self.analysis.labelling.axes[name][axis]
        if labels is None:
            return np.ones(self.analysis.probe.tensors[name].shape[axis], bool)
        return self._kept[self.analysis.classes.class_of[labels]]

    def finish(self) -> None:
        """Run both models to their last stop."""
        for run in (self.original.run, self.cut.run):
            run.finish()

    def close(self) -> None:
        """Forget all values."""
        for run in (self.original.run, self.cut.run):
            run.close()


def selected(graph: onnx.GraphProto) -> set[str]:
    """Tensors behind operators that select by the values that weight layers gave."""
    computed: set[str] = set()
    chosen: set[str] = set()
    for node in graph.node:
        read = set(reads(node))
        selects = node.op_type in SELECTING_OPS and not computed.isdisjoint(read)
        if selects or not chosen.isdisjoint(read):
            chosen.update(node.output)
        if node.op_type in WEIGHT_OPS or not computed.isdisjoint(read):
            computed.update(node.output)
    return chosen
