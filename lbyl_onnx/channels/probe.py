"""What onnxruntime says of every tensor: its shape, which sizes vary with the input, and small integer values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort

from ..calibration.inputs import InputSpec, concrete_shapes, fixed_batch, input_specs
from ..calibration.synthetic import LEAVES, synthetic_inputs
from ..errors import ModelError, NothingToRemove
from ..model.model import Model
from ..model.session import feed_batches, open_session, run
from ..options import RunOptions, SampleOptions

CPU = RunOptions("cpu")
MAX_VALUE_SIZE = 4096
SMALL_STEP, LARGE_STEP = 8, 32
"""How much a dynamic size grows from one run to the other, below LARGE_STEP and from there on."""
_SHAPE_SUFFIX = "__lbyl_shape"
_WITHOUT_SHAPE = tuple(f"tensor({name})" for name in ("int2", "uint2", "int4", "uint4", "float8e8m0"))
"""Types that onnxruntime's Shape does not take."""
_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorFacts:
    """One tensor as probed. `shape`: ints; `dynamic`: one bool an axis, True where the size follows the
    input. `value`: the tensor itself where it depends on input sizes and constants alone and is small
    (None: not known); `varies`: bools of the value's shape, True where an entry follows the input's sizes."""

    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]
    value: np.ndarray | None = None
    varies: np.ndarray | None = None


@dataclass(frozen=True)
class Probe:
    """Facts by tensor name. `batch` is the batch size that was fed (1 where the batch axis is static), `elements` how
    many elements all inputs together had, `samples` how many samples that was, also where their number is fixed."""

    tensors: dict[str, TensorFacts]
    batch: int
    elements: int = 1
    samples: int = 1


def probe(model: Model, shapes: Mapping[str, tuple[int, ...]] | None = None, options: RunOptions = CPU) -> Probe:
    """Run the model once, or twice with other sizes where it has dynamic axes, and note every tensor's shape.

    Comparing two runs tells dynamic sizes from static ones without symbolic inference. A model that takes
    only the sizes it was exported with is probed at those. `shapes`: sizes of dynamic inputs, by name. Raises
    UsageError where these do not fit, ModelError where onnxruntime refuses the model or an input is too large to feed,
    NothingToRemove where it loads but cannot be run on made-up inputs (texts, sequences, indices within some range).
    """
    session, observed = _open(model, replace(options, provider="cpu"))
    try:
        specs = input_specs(model)
    except ModelError as error:
        raise _unshown(model, error) from None
    failure: ModelError | None = None
    for first, second in _attempts(specs, shapes):
        try:
            one = _run_at(model, session, observed, first)
            two = one if second is None else _run_at(model, session, observed, second)
        except ModelError as error:
            failure = error
            continue
        batch = next((first[spec.name][0] for spec in specs if spec.shape and spec.shape[0] is None), 1)
        elements = sum(math.prod(shape) for shape in first.values())
        samples = max(batch, fixed_batch(specs) or 1)
        return Probe({name: _compare(one[name], two[name]) for name in one}, batch, elements, samples)
    advice = "; try sizes that it takes with --shape" if any(None in spec.shape[1:] for spec in specs) else ""
    raise _unshown(model, failure, advice)


def _unshown(model: Model, failure: ModelError | None, advice: str = "") -> NothingToRemove:
    return NothingToRemove(f"{model.name}: nothing to remove, as no made-up input shows its shapes{advice}: {failure}")


def _attempts(
    specs: tuple[InputSpec, ...], shapes: Mapping[str, tuple[int, ...]] | None
) -> list[tuple[_Shapes, _Shapes | None]]:
    """Input shapes to run at, and others to compare with: all dynamic sizes changed, all but one, which a model may
    take as it was exported, the batch alone, nothing."""
    one, two, three = (concrete_shapes(specs, batch, shapes=shapes) for batch in (1, 2, 3))
    if not any(None in spec.shape for spec in specs):
        return [(one, None)]
    free = [(spec.name, axis) for spec in specs for axis in spec.free_axes]
    others = [[each for each in free if each != fixed] for fixed in free] if len(free) > 1 else []
    return [*((two, _grown(three, axes)) for axes in [free, *others]), (two, three), (one, None)]


def _grown(shapes: _Shapes, axes: list[tuple[str, int]]) -> _Shapes:
    """The shapes with these axes, of inputs by name, larger."""
    return {
        name: tuple(
            size + (SMALL_STEP if size < LARGE_STEP else LARGE_STEP) if (name, axis) in axes else size
            for axis, size in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


@dataclass(frozen=True)
class _Observed:
    tensors: list[str]
    values: list[str]


def _open(model: Model, options: RunOptions) -> tuple[ort.InferenceSession, _Observed]:
    """A session that returns the shape of everything that has one; the types are asked for only where needed."""
    observed = _observed(model)
    try:
        return open_session(_instrumented(model, observed), options, optimise=False), observed
    except ModelError:
        bare = open_session(_with_outputs(model, observed.tensors), options, optimise=False)
    shapeless = {
        value.name
        for value in bare.get_outputs()
        if not value.type.startswith("tensor(") or value.type in _WITHOUT_SHAPE
    }
    observed = _observed(model, shapeless)
    return open_session(_instrumented(model, observed), options, optimise=False), observed


def _observed(model: Model, shapeless: Set[str] = frozenset()) -> _Observed:
    """Tensors of the main graph but `shapeless` ones, and those among them that depend on sizes and constants alone."""
    graph = model.proto.graph
    tensors = [value.name for value in graph.input if value.name not in model.weights]
    known = {name for name, array in model.weights.items() if array.size <= MAX_VALUE_SIZE}
    free = set(model.weights) | {""}
    values = []
    for node in graph.node:
        outputs = [name for name in node.output if name]
        tensors += outputs
        if node.op_type in ("Shape", "Size") or _is_foldable(node, free):
            free.update(outputs)
            if node.op_type in ("Shape", "Size") or all(name in known for name in node.input if name):
                known.update(outputs)
                values += outputs
    return _Observed(*([name for name in names if name not in shapeless] for names in (tensors, values)))


def _is_foldable(node: onnx.NodeProto, free: set[str]) -> bool:
    random = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
    subgraphs = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return not random and not subgraphs and all(name in free for name in node.input)


def _instrumented(model: Model, observed: _Observed) -> Model:
    """The model with the shape of every tensor, and the observed values, as its only outputs."""
    instrumented = _with_outputs(model, [*(name + _SHAPE_SUFFIX for name in observed.tensors), *observed.values])
    for name in observed.tensors:
        instrumented.proto.graph.node.add(op_type="Shape", input=[name], output=[name + _SHAPE_SUFFIX])
    return instrumented


def _with_outputs(model: Model, names: list[str]) -> Model:
    result = model.copy()
    del result.proto.graph.output[:]
    result.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return result


def _run_at(
    model: Model, session: ort.InferenceSession, observed: _Observed, shapes: _Shapes
) -> dict[str, tuple[tuple[int, ...], np.ndarray | None]]:
    samples = max((shape[0] for shape in shapes.values() if shape), default=1)
    inputs = synthetic_inputs(model, samples, SampleOptions(calibration=LEAVES, shapes=shapes))
    results = run(session, next(feed_batches(session, inputs)))
    shape_of = [tuple(int(size) for size in result) for result in results[: len(observed.tensors)]]
    values = dict(zip(observed.values, results[len(observed.tensors) :], strict=True))
    facts = {name: (shape, values.get(name)) for name, shape in zip(observed.tensors, shape_of, strict=True)}
    for name, array in model.weights.items():
        facts[name] = array.shape, array if array.size <= MAX_VALUE_SIZE else None
    return facts


def _compare(
    one: tuple[tuple[int, ...], np.ndarray | None], two: tuple[tuple[int, ...], np.ndarray | None]
) -> TensorFacts:
    (shape, value), (other_shape, other) = one, two
    dynamic = tuple(left != right for left, right in zip(shape, other_shape, strict=True))
    if not isinstance(value, np.ndarray) or not isinstance(other, np.ndarray):
        return TensorFacts(shape, dynamic)
    if value.shape != other.shape:
        return TensorFacts(shape, dynamic, value, np.ones(value.shape, bool))
    return TensorFacts(shape, dynamic, value, np.asarray(value != other))
