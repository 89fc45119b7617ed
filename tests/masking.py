"""The reference that surgery is measured against: the original model with removed channels set to zero."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.groups import Analysis
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.tensors import is_floating


def masked(analysis: Analysis, kept: np.ndarray, consumers: bool = False) -> Model:
    """The analysed model with the producers of removed channels zeroed: weights, biases, BN scales and shifts.

    `kept`: bool (classes,). Consumers' weights stay complete unless `consumers` asks to zero them too, which is what an
    activation that is not zero at zero (Sigmoid) needs.
    """
    model = analysis.model.copy()
    taken = {(port.tensor, port.axis) for port in analysis.labelling.ports if port.kind == "consumer"}
    for name, array in analysis.model.weights.items():
        if not is_floating(array):
            continue
        value = array
        for axis, labels in enumerate(analysis.labelling.axes.get(name, [])):
            if labels is None or ((name, axis) in taken and not consumers):
                continue
            keep = kept[analysis.classes.class_of[labels]]
            if not keep.all():
                along = [1] * array.ndim
                along[axis] = -1
                value = np.where(keep.reshape(along), value, np.zeros((), array.dtype))
        if value is not array:
            model.replace(name, value)
    return model


def kept_shapes(analysis: Analysis, kept: np.ndarray) -> dict[str, tuple[int, ...]]:
    """What every tensor's shape must be after surgery, by name."""
    return {name: analysis.kept_shape(name, kept) for name in analysis.probe.tensors}
