"""Run a model stretch by stretch, so that its weights can still change ahead of the point reached.

A `StagedRun` walks the nodes in their order and keeps, per batch of samples, only the values that a later node reads.
Each stretch is one onnxruntime session over the nodes between two stops. Values beyond MEMORY_LIMIT bytes are kept
in files, so memory stays bounded by the weights plus about one batch, whatever the number of samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..errors import MeasurementFailed, ModelError
from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.nodes import reads
from ..model.session import open_session, run
from ..model.tensors import DATA_TYPES
from ..options import RunOptions
from .samples import Calibration
from .statistics import Statistics, channel_statistics, within

MEMORY_LIMIT = 2**29
Batch = dict[str, Any]
"""Arrays by name; sequences as lists of arrays."""


class StagedRun:
    """One pass of `model` over batches of inputs.

    Only the first `front` batches need go through every stop: the others may lag behind and catch up in one stretch,
    with the weights as they are by then. `batches`: per batch, an array for each input. `before`: called with each
    node number when all nodes before it have run, if it is in `stops`; it may change the model's weights.
    """

    def __init__(
        self,
        model: Model,
        batches: list[Batch],
        options: RunOptions,
        stops: set[int] | None = None,
        before: Callable[[int], None] | None = None,
        front: int | None = None,
    ) -> None:
        self.model = model
        self._options = options
        self._stops = sorted(stops or ())
        self._before = before
        self._index = GraphIndex(model)
        self._nodes = self._index.nodes
        self._folder = tempfile.TemporaryDirectory(prefix="lbyl-onnx-")
        self._files = 0
        self._values: list[Batch] = [{name: np.asarray(array) for name, array in batch.items()} for batch in batches]
        self._held = sum(array.nbytes for batch in self._values for array in batch.values())
        self._reached = [0] * len(batches)
        self._front = min(front or len(batches), len(batches))

    @property
    def level(self) -> int:
        """How many batches are level with the first."""
        return self._reached.count(self._reached[0])

    def reach(self, *names: str, lagging: bool = False) -> None:
        """Run all nodes up to those that make the tensors `names`; with `lagging`, only for the front batches."""
        self._run_to(max(self._index.numbers.get(name, -1) + 1 for name in names), names, lagging)

    def finish(self) -> None:
        """Run to the last stop, where there is one ahead."""
        if self._stops:
            last = self._stops[-1]
            self._run_to(last, (), lagging=False)
            self._run_to(last + 1, (), lagging=True)

    def _run_to(self, target: int, wanted: tuple[str, ...], lagging: bool) -> None:
        everything = range(self._front if lagging else len(self._values))
        while True:
            if not lagging and self._reached[-1] < self._reached[0]:
                self._advance(range(self._front, len(self._values)), self._reached[0], wanted)
            if self._reached[0] >= target:
                return
            stop = next((stop for stop in self._stops if stop >= self._reached[0]), len(self._nodes))
            if stop == self._reached[0]:
                self._stops.remove(stop)
                assert self._before is not None
                self._before(stop)
            else:
                self._advance(everything, min(stop, target), wanted)

    def approach(self, name: str, lagging: bool = False) -> None:
        """Run all nodes before the one that makes the tensor `name`; with `lagging`, only for the front batches."""
        self._run_to(self._index.numbers[name], (), lagging)

    def has(self, name: str) -> bool:
        """Whether the values of tensor `name` are held, or lie ahead."""
        return self._index.numbers.get(name, -1) >= self._reached[0] or name in self._values[0]

    def values(self, name: str, batches: int | None = None) -> Iterator[np.ndarray]:
        """The value of tensor or constant `name`, batch by batch, of so many `batches` (None: those that are level with
        the first); `reach` it first, and ask before the run moves past its readers."""
        for batch in self._values[: batches or self.level]:
            yield np.asarray(batch[name] if name in batch else self.model.weights[name])

    def batches(self, name: str, numbers: list[int]) -> list[np.ndarray]:
        """The values of tensor `name` in some batches, where these are level with the first."""
        return [value for number, value in enumerate(self.values(name)) if number in numbers]

    def update(self, name: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace the value of tensor `name` in every batch that is level with the first."""
        for batch in self._values[: self.level]:
            self._store(batch, name, function(np.asarray(batch[name])))

    def ahead(self) -> list[onnx.NodeProto]:
        """The nodes that are still to run."""
        return self._nodes[self._reached[0] :]

    def rest(self, nodes: list[onnx.NodeProto], given: Batch, outputs: list[str]) -> Callable[[Batch], Iterator[Batch]]:
        """A way to run `nodes` in place of those ahead, as often as wanted, which leaves this run where it is.

        They read the values that are held, and tensors that they are `given`. Returns a function that takes values for
        these, of the same types and shapes, and yields the values of `outputs`, batch by batch.
        """
        needed = {name for node in nodes for name in reads(node)} - {name for node in nodes for name in node.output}
        held = [name for name in self._values[0] if name in needed]
        inputs = self._held_by(range(self.level), held) | {name: [value] for name, value in given.items()}
        model = self._stretch(nodes, inputs, outputs)
        with _measuring():
            session = open_session(model, self._options, arena=False)

        def values(given: Batch) -> Iterator[Batch]:
            for batch in self._values[: self.level]:
                with _measuring():
                    found = run(session, {name: _in_memory(batch[name]) for name in held} | given, outputs)
                yield dict(zip(outputs, found, strict=True))

        return values

    def close(self) -> None:
        """Forget all values and remove their files."""
        self._values = []
        self._folder.cleanup()

    def _advance(self, batches: range, end: int, wanted: tuple[str, ...]) -> None:
        stretch = self._nodes[self._reached[batches[0]] : end]
        made = {name for node in stretch for name in node.output if name}
        needed = {name for node in stretch for name in reads(node)} - made
        inputs = [name for name in self._values[batches[0]] if name in needed]
        later = [name for name in made if name in wanted or self._index.last_use(name) >= end]
        outputs = sorted(name for name in later if name not in self.model.weights)
        if outputs:
            model = self._stretch(stretch, self._held_by(batches, inputs), outputs)
            with _measuring():
                session = open_session(model, self._options, arena=False)
        for index in batches:
            batch = self._values[index]
            with _measuring():
                results = run(session, {name: _in_memory(batch[name]) for name in inputs}, outputs) if outputs else []
            for name in [name for name in batch if self._index.last_use(name) < end and name not in wanted]:
                self._drop(batch, name)
            for name, value in zip(outputs, results, strict=True):
                self._store(batch, name, value)
            self._reached[index] = end

    def _held_by(self, batches: range, names: list[str]) -> dict[str, list[Any]]:
        """The values of some tensors in some batches."""
        return {name: [self._values[index][name] for index in batches] for name in names}

    def _stretch(self, nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], outputs: list[str]) -> Model:
        """The nodes as a model of their own, which takes the values of each of its `inputs`."""
        graph = helper.make_graph(nodes, "stretch", [], [onnx.ValueInfoProto(name=name) for name in outputs])
        read = {name for node in nodes for name in reads(node)}
        source = self.model.proto
        graph.input.extend(_declaration(name, values) for name, values in inputs.items())
        graph.sparse_initializer.extend(each for each in source.graph.sparse_initializer if each.values.name in read)
        constants = {node.output[0] for node in nodes if node.op_type == "Constant"}
        stored = {tensor.name: tensor for tensor in source.graph.initializer}
        weights = {name: self.model.weights[name] for name in sorted(read - constants) if name in self.model.weights}
        for name in sorted(read & stored.keys()):
            graph.initializer.append(stored[name])
        for name in weights.keys() - stored.keys():
            graph.initializer.add(name=name, data_type=DATA_TYPES[weights[name].dtype], dims=weights[name].shape)
        proto = helper.make_model(
            graph,
            opset_imports=source.opset_import,
            functions=source.functions,
            ir_version=max(source.ir_version, 4),
        )
        return Model(proto, weights)

    def _store(self, batch: Batch, name: str, value: np.ndarray) -> None:
        self._drop(batch, name)
        if isinstance(value, list):
            batch[name] = value
            return
        if self._held + value.nbytes > MEMORY_LIMIT and value.dtype != object:
            path = Path(self._folder.name, f"{self._files}.npy")
            self._files += 1
            np.save(path, value)
            value = np.load(path, mmap_mode="r").view(value.dtype)  # which a file does not tell of bfloat16
        else:
            self._held += value.nbytes
        batch[name] = value

    def _drop(self, batch: Batch, name: str) -> None:
        value = batch.pop(name, None)
        if isinstance(value, np.memmap):
            Path(str(value.filename)).unlink()
        elif isinstance(value, np.ndarray):
            self._held -= value.nbytes


@contextmanager
def _measuring() -> Iterator[None]:
    """What onnxruntime refuses inside is a stretch, not the model."""
    try:
        yield
    except ModelError as error:
        raise MeasurementFailed(str(error)) from error


def _in_memory(value: Any) -> Any:
    """A tensor, perhaps kept in a file, as a plain array; a sequence (a list of arrays) as it is."""
    return value if isinstance(value, list) else np.asarray(value)


def _declaration(name: str, values: list[Any]) -> onnx.ValueInfoProto:
    """An input that takes any of the `values`; of the sizes that they share, by which onnxruntime chooses layouts."""
    first = values[0]
    if isinstance(first, list):
        element = next((DATA_TYPES[item.dtype] for item in first), onnx.TensorProto.FLOAT)
        return helper.make_tensor_sequence_value_info(name, element, None)
    element = onnx.TensorProto.STRING if first.dtype == object else DATA_TYPES[first.dtype]
    sizes = zip(*(value.shape for value in values), strict=False)
    return helper.make_tensor_value_info(name, element, [each[0] if len(set(each)) == 1 else None for each in sizes])


class CalibratedRun:
    """A run of `model` in which BatchNormalization uses the samples' own statistics, if these are synthetic.

    `normalised`: the tensors that such nodes read; `statistics`: what they found, by their outputs' names.
    """

    def __init__(self, model: Model, calibration: Calibration, options: RunOptions, front: int | None = None) -> None:
        self.model = model.copy()
        self.statistics: dict[str, Statistics] = {}
        detached = self._detach() if calibration.synthetic else {}
        self.normalised = {node.input[0] for node in detached.values()}
        self.run = StagedRun(self.model, calibration.batches, options, set(detached), self._normalise, front)

    def _detach(self) -> dict[int, onnx.NodeProto]:
        """Give each node whose mean and variance are constants such of its own; these nodes, by their numbers."""
        index = GraphIndex(self.model)
        detached, slots = {}, []
        for number, node in enumerate(index.nodes):
            if node.op_type == "BatchNormalization" and sum(map(bool, node.output)) == 1:
                found = [index.constant(name) for name in node.input[3:5]]
                values = [constant.read(self.model) for constant in found if constant is not None]
                if len(values) == len(found):
                    detached[number] = node
                    slots += [(node, slot, value) for slot, value in enumerate(values, 3)]
        names = self.model.free_names([f"{node.output[0]}_statistics_{slot}" for node, slot, _ in slots])
        for name, (node, slot, value) in zip(names, slots, strict=True):
            node.input[slot] = name
            self.model.add(name, value)
        return detached

    def _normalise(self, number: int) -> None:
        node = self.model.proto.graph.node[number]
        found = channel_statistics(self.run.values(node.input[0]), axis=1)
        if found is None:
            return
        self.statistics[node.output[0]] = found
        for name, value in ((node.input[3], found.mean), (node.input[4], found.variance)):
            self.model.replace(name, within(value, self.model.weights[name].dtype))
