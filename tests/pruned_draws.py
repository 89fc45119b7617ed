"""Networks of which random parts are gone, and how far their outputs are from the whole network's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from lbyl_onnx import Model, load
from lbyl_onnx.bounds import UNITS, Stretch, without_units
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import RunOptions

Inputs = dict[str, np.ndarray]


def fashion(shared: Callable[..., Path], samples: int) -> tuple[Model, Inputs]:
    """LeNet-300-100 and pictures of clothes as it expects them."""
    with np.load(shared("data", "fashion_mnist_test.npz")) as data:
        pixels = data["images"][:samples].reshape(-1, 1, 28, 28).astype(np.float32)
    return load(shared("models", "lenet_300_100_fashion.onnx")), {"input": (pixels / 255 - 0.5) / 0.5}


class PrunedNetwork:
    """A network that takes the weights of its layers as inputs; BatchNormalization stays as it is."""

    def __init__(self, model: Model, inputs: Inputs, stretch: Stretch) -> None:
        nodes = {node.name: node for node in model.proto.graph.node}
        names = [nodes[layer.name].input[1] for layer in stretch.layers]
        self.stretch, self.inputs = stretch, inputs
        self.weights = {name: model.weights[name] for name in names}
        fed = model.copy()
        fed.remove(set(names))
        fed.proto.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in self.weights.items()
        )
        self.session = open_session(fed, RunOptions("cpu", threads=1))
        self.output = self._run(self.weights)

    def _run(self, weights: Inputs) -> np.ndarray:
        return run(self.session, {**self.inputs, **weights})[0].astype(np.float64)

    def gap(self, weights: list[np.ndarray]) -> float:
        """The root mean square of |y' - y| over samples, where weights that are 0 here are gone."""
        pairs = zip(self.weights.items(), weights, strict=True)
        left = {name: np.where(pruned == 0, np.float32(0), own) for (name, own), pruned in pairs}
        return float(np.sqrt(((self._run(left) - self.output) ** 2).sum(axis=1).mean()))

    def drawn(self, removed: tuple[int, ...], what: str, draws: int, seed: int) -> Iterator[list[np.ndarray]]:
        """Weights without so many units, or weights, of each layer, drawn without replacement."""
        layers = self.stretch.layers
        for rng in np.random.default_rng(seed).spawn(draws):
            gone = []
            for layer, count in zip(layers, removed, strict=True):
                size = layer.linear.unit_count if what == UNITS else layer.linear.weight.size
                mask = np.zeros(size, bool)
                mask[rng.choice(size, count, replace=False, shuffle=False)] = True
                gone.append(mask)
            if what == UNITS:
                yield without_units(self.stretch, gone)
            else:
                weights = [layer.linear.weight for layer in layers]
                yield [np.where(mask.reshape(w.shape), 0, w) for mask, w in zip(gone, weights, strict=True)]

    def gaps(self, removed: tuple[int, ...], what: str, draws: int, seed: int = 0) -> np.ndarray:
        """The root mean squares after random prunings, float64 (draws,)."""
        return np.array([self.gap(weights) for weights in self.drawn(removed, what, draws, seed)])
