"""Bounded BatchNormalization and penalties, against PyTorch's own layers and numbers worked out by hand."""

import copy
import io
import math
import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("torch", reason="needs PyTorch (pip install 'lbyl-onnx[train]')")

import torch
from torch import nn

from lbyl_onnx.errors import UsageError
from lbyl_onnx.training import BoundedBatchNorm, bounded, fold, importances, l1, parameter_groups, receding

DIMENSIONS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network(dimensions=2):
    return nn.Sequential(
        CONVOLUTIONS[dimensions](3, 8, 3, padding=1, bias=False),
        DIMENSIONS[dimensions](8),
        nn.ReLU(),
        nn.Sequential(CONVOLUTIONS[dimensions](8, 6, 1), DIMENSIONS[dimensions](6)),
    )


def used(layers, dimensions=2):
    """The network in evaluation mode after two batches, its omegas and shifts drawn."""
    for _ in range(2):
        layers(torch.randn(4, 3, *[5] * dimensions))
    with torch.no_grad():
        for layer in layers.modules():
            if isinstance(layer, BoundedBatchNorm):
                layer.omega.normal_()
                if layer.shift is not None:
                    layer.shift.normal_()
    return layers.eval()


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("shift", [False, True])
def test_folded_networks_are_ordinary_and_do_the_same(dimensions, shift):
    layers = used(bounded(network(dimensions), shift), dimensions)
    folded, x = fold(layers), torch.randn(2, 3, *[5] * dimensions)
    assert sum(type(layer) is DIMENSIONS[dimensions] for layer in folded.modules()) == 2
    assert not any(isinstance(layer, BoundedBatchNorm) for layer in folded.modules())
    torch.testing.assert_close(folded(x), layers(x))
    torch.testing.assert_close(importances(folded), importances(layers))
    assert sum(isinstance(layer, BoundedBatchNorm) for layer in layers.modules()) == 2
    folded.load_state_dict(copy.deepcopy(network(dimensions)).state_dict())


def test_it_is_batch_normalisation_with_this_scale_in_training_too():
    ours, theirs = BoundedBatchNorm(nn.BatchNorm2d(5), shift=True), nn.BatchNorm2d(5)
    with torch.no_grad():
        theirs.weight.fill_(1 / (1 + math.exp(-1)))
    x = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.norm.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_without_a_shift_a_unit_that_has_receded_is_zero():
    layers = bounded(nn.Sequential(nn.BatchNorm1d(3)))
    with torch.no_grad():
        layers[0].omega.copy_(torch.tensor([-200.0, 0, 200]))
    scaled = layers(torch.randn(16, 3))
    assert not scaled[:, 0].any()
    torch.testing.assert_close(importances(layers), torch.tensor([0, 0.5, 1]))


def test_a_network_may_be_a_single_layer_and_a_layer_stand_twice():
    assert isinstance(bounded(nn.BatchNorm1d(3)), BoundedBatchNorm)
    norm = nn.BatchNorm1d(3)
    layers = bounded(nn.Sequential(norm, nn.ReLU(), norm))
    assert layers[0] is layers[2] and len(importances(layers)) == 3
    folded = fold(layers)
    assert folded[0] is folded[2]


def test_states_are_saved_and_loaded():
    layers, file = used(bounded(network())), io.BytesIO()
    torch.save(layers.state_dict(), file)
    file.seek(0)
    again = bounded(network())
    again.load_state_dict(torch.load(file))
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(again.eval()(x), layers(x), rtol=0, atol=0)


# ---- penalties


@pytest.mark.parametrize(("omega", "b"), [(0.0, 0.0), (1.0, 3.0), (-4.0, 3.0), (-30.0, 0.0)])
def test_the_receding_penalty_by_hand(omega, b):
    layers = bounded(nn.Sequential(nn.BatchNorm1d(2)))
    with torch.no_grad():
        layers[0].omega.fill_(omega)
    p = 1 / (1 + math.exp(-omega - b))
    assert receding(layers, 0.5, b).item() == pytest.approx(0.5 * 2 * p * (1 - math.log(p)), rel=1e-5)


def test_the_receding_penalty_pulls_at_small_scales_and_leaves_large_ones():
    layers = bounded(nn.Sequential(nn.BatchNorm1d(3)))
    with torch.no_grad():
        layers[0].omega.copy_(torch.tensor([-4.0, 2.0, 8.0]))
    receding(layers, 1.0, 3.0).backward()
    small, large, larger = layers[0].omega.grad.tolist()
    assert small > 100 * large > 0 and large > 100 * abs(larger)


@pytest.mark.parametrize("omega", [-500.0, 500.0])
def test_the_receding_penalty_is_finite(omega):
    layers = bounded(nn.Sequential(nn.BatchNorm1d(1)))
    with torch.no_grad():
        layers[0].omega.fill_(omega)
    found = receding(layers)
    found.backward()
    assert math.isfinite(found.item()) and torch.isfinite(layers[0].omega.grad).all()


def test_network_slimming_by_hand():
    layers = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(1))
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([-2.0, 3.0]))
    assert l1(layers, 0.1).item() == pytest.approx(0.1 * 6)
    assert l1(bounded(nn.Sequential(nn.BatchNorm1d(2))), 1.0).item() == pytest.approx(2 / (1 + math.exp(-1)))


def test_omega_learns_faster_and_without_decay():
    layers = bounded(network(), shift=True)
    others, bounds = parameter_groups(layers, 0.1, 5e-4)
    assert (others["lr"], others["weight_decay"]) == (0.1, 5e-4)
    assert (bounds["lr"], bounds["weight_decay"]) == (1.0, 0.0)
    assert [id(each) for each in bounds["params"]] == [id(layers[1].omega), id(layers[3][1].omega)]
    both = [*others["params"], *bounds["params"]]
    assert sorted(map(id, both)) == sorted(map(id, layers.parameters()))


@pytest.mark.parametrize("call", [receding, lambda layers: parameter_groups(layers, 0.1)])
def test_networks_without_bounds_are_told(call):
    with pytest.raises(UsageError, match=r"no bounded BatchNormalization; call bounded\(network\)"):
        call(network())


def test_networks_that_cannot_be_bounded_are_told():
    with pytest.raises(UsageError, match="network has no BatchNormalization with a scale"):
        bounded(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="run it once first"):
        bounded(nn.Sequential(nn.LazyBatchNorm1d()))
    with pytest.raises(UsageError, match="no BatchNormalization with a scale"):
        l1(nn.BatchNorm1d(2, affine=False))


# ---- all of it


def test_the_loop_in_the_documents_runs():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    scope = {"network": network(), "batches": [(torch.randn(8, 3, 5, 5), torch.randint(0, 6, (8, 5, 5)))] * 3}
    exec(compile(code, "docs/training.md", "exec"), scope)
    assert not any(isinstance(layer, BoundedBatchNorm) for layer in scope["exportable"].modules())
    assert np.isfinite(scope["loss"].item())


def test_nothing_else_imports_pytorch():
    assert "torch" in sys.modules
    sources = [path for path in (ROOT / "lbyl_onnx").rglob("*.py") if "training" not in path.parts]
    found = [path.name for path in sources if "import torch" in path.read_text(encoding="utf-8")]
    assert found == []
