"""Sizes of dynamic inputs that a model runs at, where it does not run at those that are usual."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import onnxruntime as ort

from ..errors import ModelError
from ..model.model import Model
from ..model.session import feed_batches, open_session, run
from ..options import RunOptions, SampleOptions
from .inputs import InputSpec, concrete_shapes, format_shape, input_specs
from .synthetic import LEAVES, synthetic_inputs

logger = logging.getLogger(__name__)

SIZES = (48, 32, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 640)
"""What dynamic axes are tried at: lines of text, spectrograms, images."""
LENGTHS = (1024, 4096, 16000)
"""The same for axes of signals."""
CONSTANTS = 16
"""So many constants, those that are read first, tell how many features a model may want."""
LARGEST = 2**22
"""Elements of an input that are tried at most."""

_Shapes = Mapping[str, tuple[int, ...]]


def runnable_sizes(model: Model, shapes: _Shapes, runtime: RunOptions) -> dict[str, tuple[int, ...]]:
    """`shapes` as they are where the model runs at them, completed by the usual sizes of `concrete_shapes`, and every
    output has a finite value; else with the first other sizes at which that is so, of inputs that they do not name, or
    as they are where there are none such.

    Raises ModelError where onnxruntime refuses the model, UsageError where `shapes` do not fit.
    """
    try:
        specs = input_specs(model)
        usual = concrete_shapes(specs, 1, shapes=shapes)
    except ModelError:
        return dict(shapes)
    free = [spec for spec in specs if spec.name not in shapes and spec.free_axes]
    if not free:
        return dict(shapes)
    session = open_session(model, replace(runtime, provider="cpu"))
    if _runs(model, session, usual):
        return dict(shapes)
    for changed in _candidates(model, usual, free):
        if _runs(model, session, usual | changed):
            logger.info("%s: the usual sizes do not run, taken instead: %s", model.name, changed)
            return {**shapes, **changed}
    return dict(shapes)


def at_runnable_sizes(model: Model, options: SampleOptions, runtime: RunOptions) -> SampleOptions:
    """The options with `runnable_sizes`."""
    return replace(options, shapes=runnable_sizes(model, options.shapes, runtime))


def sizes_found(shapes: _Shapes, found: _Shapes) -> list[str]:
    """A sentence for each input that was `found` to need other sizes than `shapes` name."""
    return [
        f"input {name!r} was run at {format_shape(shape)}, as made-up inputs of the usual size do not run; name others "
        f"with --shape {name}:{'x'.join(map(str, shape))}"
        for name, shape in found.items()
        if name not in shapes
    ]


def _candidates(model: Model, usual: _Shapes, free: Sequence[InputSpec]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of inputs that are not the usual ones: each free axis changed alone, then all of an input."""
    features = list(islice(_features(model), CONSTANTS))
    alone = [(spec, [axis], [*_sizes(spec), *features]) for spec in free for axis in spec.free_axes]
    alike = [(spec, [*spec.free_axes], [*_sizes(spec)]) for spec in free if len(spec.free_axes) > 1]
    for spec, axes, sizes in [*alone, *alike]:
        for size in dict.fromkeys(sizes):
            shape = tuple(size if axis in axes else length for axis, length in enumerate(usual[spec.name]))
            if shape != usual[spec.name] and math.prod(shape) <= LARGEST:
                yield {spec.name: shape}


def _sizes(spec: InputSpec) -> Sequence[int]:
    signal = spec.channel_axis is None and spec.dtype.kind == "f"
    return (*SIZES, *LENGTHS) if signal else SIZES


def _features(model: Model) -> Iterator[int]:
    """The sizes of the model's constants, of those that are read first at first."""
    for node in model.proto.graph.node:
        for name in node.input:
            if name in model.weights:
                yield from (size for size in model.weights[name].shape if size > 1)


def _runs(model: Model, session: ort.InferenceSession, shapes: _Shapes) -> bool:
    """Whether a model runs at these sizes, and no output is without a finite value."""
    inputs = synthetic_inputs(model, 1, SampleOptions(calibration=LEAVES, shapes=shapes))
    try:
        values = run(session, next(feed_batches(session, inputs)))
    except ModelError:
        return False
    arrays = (value for value in values if isinstance(value, np.ndarray) and value.dtype.kind == "f")
    return all(array.size == 0 or bool(np.isfinite(array).any()) for array in arrays)
