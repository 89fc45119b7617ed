"""Bounds against all prunings of small networks, one by one."""

from itertools import combinations, pairwise, product
from math import comb, prod

import numpy as np
import pytest

from lbyl_onnx.bounds import (
    UNITS,
    WEIGHTS,
    Bound,
    Layer,
    Stretch,
    as_chosen,
    at_random,
    greatest_share,
    removed_of,
    without_smallest_units,
    without_smallest_weights,
    without_units,
)
from lbyl_onnx.bounds.operators import Linear
from lbyl_onnx.errors import UsageError


class Network:
    """Fully connected layers with ReLU between them, and samples, read as a stretch."""

    def __init__(self, *sizes: int, seed: int = 0, bias: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self.weights = [rng.standard_normal((out, inner)) for inner, out in pairwise(sizes)]
        self.biases = [bias * rng.standard_normal(out) for out in sizes[1:]]
        self.samples = rng.standard_normal((20, sizes[0]))

    def run(self, weights: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The output, and what each layer reads."""
        value, read = self.samples, []
        for number, (weight, bias) in enumerate(zip(weights, self.biases, strict=True)):
            value = np.maximum(value, 0) if number else value
            read.append(value)
            value = value @ weight.T + bias
        return value, read

    @property
    def stretch(self) -> Stretch:
        layers = []
        for number, (weight, data) in enumerate(zip(self.weights, self.run(self.weights)[1], strict=True)):
            second = data.T @ data / len(data)
            effect = float(((data @ weight.T) ** 2).sum() / len(data))
            linear = Linear(weight, np.arange(weight.shape[1]))
            layers.append(
                Layer(str(number), linear, np.diag(second), effect, second, 1.0, "before" if number else None)
            )
        return Stretch(tuple(layers), 1.0, "y", len(self.samples))

    def moved(self, weights: list[np.ndarray]) -> float:
        """The mean square of the output's gap."""
        return float(((self.run(weights)[0] - self.run(self.weights)[0]) ** 2).sum(axis=1).mean())

    def prunings(self, removed: tuple[int, ...], what: str):
        """The weights after each way to remove so many units, or weights, of each layer."""
        sizes = [weight.size if what == WEIGHTS else weight.shape[1] for weight in self.weights]
        ways = [combinations(range(size), count) for size, count in zip(sizes, removed, strict=True)]
        for gone in product(*ways):
            pruned = [weight.copy() for weight in self.weights]
            for weight, which in zip(pruned, gone, strict=True):
                if what == WEIGHTS:
                    weight.reshape(-1)[list(which)] = 0
                else:
                    weight[:, list(which)] = 0
            yield pruned


@pytest.mark.parametrize("removed", [1, 2, 3, 5])
@pytest.mark.parametrize("what", [UNITS, WEIGHTS])
def test_the_mean_over_all_prunings_of_the_last_layer_is_exact(removed, what):
    """Any cheated factor of the bound shows here, from above as well as from below."""
    network = Network(3, 6, 2)
    found = [network.moved(weights) for weights in network.prunings((0, removed), what)]
    assert len(found) == comb(6 if what == UNITS else 12, removed)
    assert at_random(network.stretch, (0, removed), what).mean_square == pytest.approx(np.mean(found), rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("what", "removed"),
    [(UNITS, (0, 1, 1)), (UNITS, (0, 2, 1)), (UNITS, (0, 3, 2)), (WEIGHTS, (1, 1, 1)), (WEIGHTS, (2, 1, 0))],
)
def test_the_mean_over_all_prunings_of_several_layers_is_bounded(seed, what, removed):
    network = Network(2, 4, 3, 2, seed=seed, bias=1.0)
    found = np.array([network.moved(weights) for weights in network.prunings(removed, what)])
    bound = at_random(network.stretch, removed, what)
    assert found.mean() <= bound.mean_square * (1 + 1e-9)
    for delta in (0.5, 0.2, 0.05):
        assert (np.sqrt(found) > bound.gap(delta)).mean() <= delta


@pytest.mark.parametrize("seed", range(5))
def test_chosen_weights_are_bounded_one_by_one(seed):
    network = Network(2, 4, 3, 2, seed=seed, bias=1.0)
    for weights in [*network.prunings((0, 2, 1), UNITS), *network.prunings((1, 1, 1), WEIGHTS)]:
        moved = network.moved(weights)
        assert moved <= as_chosen(network.stretch, weights).mean_square * (1 + 1e-9)


def test_chosen_weights_of_the_last_layer_are_exact():
    network = Network(3, 6, 2)
    for weights in network.prunings((0, 2), UNITS):
        assert as_chosen(network.stretch, weights).mean_square == pytest.approx(network.moved(weights))


def test_nothing_removed_moves_nothing():
    network = Network(3, 5, 4, 2)
    assert at_random(network.stretch, (0, 0, 0)).mean_square == 0
    assert as_chosen(network.stretch, network.weights).mean_square == 0


def test_what_is_smallest_goes():
    network = Network(3, 5, 4, 2)
    stretch = network.stretch
    weights = without_smallest_weights(stretch, removed_of(stretch, 0.4, WEIGHTS))
    assert [int((weight == 0).sum()) for weight in weights] == [6, 8, 3]
    for weight, pruned in zip(network.weights, weights, strict=True):
        assert np.abs(weight[pruned == 0]).max() < np.abs(pruned[pruned != 0]).min()
    first, second, third = without_smallest_units(stretch, removed_of(stretch, 0.4))
    assert (first == network.weights[0]).all()
    for before, after in ((network.weights[0], second), (network.weights[1], third)):
        gone = (after == 0).all(axis=0)
        assert gone.sum() == int(0.4 * len(gone))
        norms = np.linalg.norm(before, axis=1)
        assert norms[gone].max() < norms[~gone].min()


def test_units_of_several_features_go_together():
    linear = Linear(np.ones((2, 6)), np.repeat(np.arange(3), 2))
    layer = Layer("l", linear, np.ones(6), 1.0, np.eye(6), producer="p")
    (weight,) = without_units(Stretch((layer,), 1.0, "y", 1), [np.array([False, True, False])])
    assert (weight == [1, 1, 0, 0, 1, 1]).all()
    assert layer.unit_effects == pytest.approx([4, 4, 4])


def test_a_bound_is_markovs():
    bound = Bound(4.0)
    assert (bound.root, bound.gap(0.25), bound.probability(4.0), bound.probability(1.0)) == (2, 4, 0.25, 1)


def test_the_greatest_share_is_the_last_that_holds():
    stretch = Network(10, 200, 5).stretch
    share = greatest_share(stretch, 20.0, 0.1)
    assert 0 < share < 0.5
    assert at_random(stretch, removed_of(stretch, share)).gap(0.1) <= 20
    assert at_random(stretch, removed_of(stretch, share + 1 / 200)).gap(0.1) > 20
    assert greatest_share(stretch, 1e-6, 0.1) == 0


def test_wrong_arguments_are_refused():
    stretch = Network(3, 5, 2).stretch
    assert prod(removed_of(stretch, 0.99)[1:]) == 4
    for share in (1.0, -0.1):
        with pytest.raises(UsageError, match="expected a number in"):
            removed_of(stretch, share)
    with pytest.raises(UsageError, match="units or weights"):
        removed_of(stretch, 0.1, "layers")
    with pytest.raises(UsageError, match="gap above 0"):
        greatest_share(stretch, 0.0, 0.1)
