"""The inputs that a model declares, and sizes for their dynamic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from ..errors import ModelError, UsageError
from ..model.model import Model

SEQUENCE_LENGTH = 16
VOLUME_SIZE = 32
LARGEST_INPUT = 2**34
"""Bytes of one input of one run: models that declare more cannot be run anywhere near here."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model. `shape`: sizes of its axes, None where dynamic."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]

    @property
    def channel_axis(self) -> int | None:
        """The channel axis where the input looks like images (N,C,H,W or N,H,W,C; H and W at least 4)."""
        if len(self.shape) != 4 or self.dtype.kind == "b" or means(self.name, "mask"):
            return None
        last = self.shape[3] in (1, 3, 4) and self.shape[1] not in (1, 3, 4)
        spatial = self.shape[1:3] if last else self.shape[2:]
        return (3 if last else 1) if all(size is None or size >= 4 for size in spatial) else None

    @property
    def free_axes(self) -> tuple[int, ...]:
        """Its dynamic axes but for the first, which counts samples, and that of channels."""
        return tuple(
            axis for axis, size in enumerate(self.shape) if size is None and axis not in (0, self.channel_axis)
        )

    def shortest_side(self, shape: Sequence[int]) -> int | None:
        """Pixels of the shorter side of its images of this `shape`; None where it takes none."""
        return None if self.channel_axis is None else min(shape[1:3] if self.channel_axis == 3 else shape[2:])


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """The inputs a caller has to feed: those of the graph that are not initializers, in its order.

    Raises ModelError for an input that is no tensor of numbers or declares no rank.
    """
    graph = model.proto.graph
    constants = {initializer.name for initializer in graph.initializer}
    constants |= {initializer.values.name for initializer in graph.sparse_initializer}
    return tuple(_spec(value) for value in graph.input if value.name not in constants)


def _spec(value: ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        found = (kind or "undeclared").removesuffix("_type")
        raise ModelError(f"input {value.name!r} is of type {found}; only tensor inputs are supported")
    tensor = value.type.tensor_type
    if tensor.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        found = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ModelError(f"input {value.name!r} has elements of type {found}; only numbers are supported")
    if not tensor.HasField("shape"):
        raise ModelError(f"input {value.name!r} declares no rank; export the model with input shapes")
    shape = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim)
    return InputSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """How many samples one run takes, where the first axis of an input is fixed; None where that is free."""
    return next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)


def concrete_shapes(
    specs: Sequence[InputSpec],
    batch: int,
    size: int = 224,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """A shape for each input with every dynamic axis filled in.

    Dynamic axes become: the first `batch`; height and width of images `size`, their channels 3; the second
    axis of anything else 16; the third of (N, C, L) signals `size`; further ones 32. `shapes` overrides whole
    inputs but for the first axis. Raises UsageError where it names no input or contradicts a static axis, ModelError
    where an input is larger than LARGEST_INPUT.
    """
    given = dict(shapes or {})
    names = [spec.name for spec in specs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(f"shape given for {unknown[0]!r}, which is no input; the model's inputs are {names}")
    chosen = {
        spec.name: _checked(spec, tuple(given[spec.name]), batch)
        if spec.name in given
        else tuple(
            length if length is not None else _default_length(spec, axis, batch, size)
            for axis, length in enumerate(spec.shape)
        )
        for spec in specs
    }
    for spec in specs:
        needed = math.prod(chosen[spec.name]) * spec.dtype.itemsize
        if needed > LARGEST_INPUT:
            raise ModelError(
                f"input {spec.name!r} is {format_shape(spec.shape)}, {needed / 2**30:,.0f} GiB for one run, more than "
                f"this tool feeds ({LARGEST_INPUT / 2**30:,.0f} GiB); export the model with a smaller or a dynamic size"
            )
    return chosen


def sizes_of(specs: Sequence[InputSpec], arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes of given arrays as `concrete_shapes` takes them: of one run."""
    return {spec.name: (spec.shape[0] or 1, *arrays[spec.name].shape[1:]) if spec.shape else () for spec in specs}


def _default_length(spec: InputSpec, axis: int, batch: int, size: int) -> int:
    if axis == 0:
        return batch
    if spec.channel_axis is not None:
        return 3 if axis == spec.channel_axis else size
    if axis == 1:
        return SEQUENCE_LENGTH
    return size if len(spec.shape) == 3 else VOLUME_SIZE


def _checked(spec: InputSpec, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    fits = len(shape) == len(spec.shape) and all(
        found > 0 and expected in (None, found) for found, expected in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"shape {shape} does not fit input {spec.name!r}, which is {format_shape(spec.shape)}; "
            "give one positive size for each axis and keep the static ones"
        )
    return (batch, *shape[1:]) if spec.shape[:1] == (None,) else shape


def format_shape(shape: Sequence[int | None]) -> str:
    """A shape for messages, dynamic axes as "?": (?, 3, 224, 224)."""
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"


def means(name: str, *words: str) -> bool:
    """Whether one of `words` is part of the name of an input."""
    return any(word in name.lower() for word in words)
