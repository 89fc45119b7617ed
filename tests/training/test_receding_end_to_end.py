"""Units that a task does not need recede in training and are what one threshold removes; those that it needs stay."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch (pip install 'lbyl-onnx[train]')")

import torch
from onnx import numpy_helper
from torch import nn
from torch_export import exported

from lbyl_onnx import NothingToRemove, compress
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import RunOptions
from lbyl_onnx.training import bounded, fold, importances, parameter_groups, receding

NEEDED, UNITS, STEPS = 24, 48, 1000
SHAPE = (UNITS, 2, 2)


def trained(strength):
    """A network in which each unit sees one channel of noise, after regression on weighted sums over the first `NEEDED`
    channels, rectified."""
    torch.set_num_threads(1)  # it is small
    torch.manual_seed(0)
    network = bounded(
        nn.Sequential(
            nn.Conv2d(UNITS, UNITS, 1, bias=False),
            nn.BatchNorm2d(UNITS),
            nn.ReLU(),
            nn.Conv2d(UNITS, 2 * NEEDED, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )
    network[0].weight = nn.Parameter(torch.eye(UNITS)[:, :, None, None], requires_grad=False)
    truth = torch.randn(NEEDED, 2 * NEEDED)
    optimiser = torch.optim.SGD(parameter_groups(network, 0.05, 1e-4), momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        image = torch.randn(32, UNITS, 2, 2)
        wanted = image[:, :NEEDED].relu().mean((2, 3)) @ truth
        loss = nn.functional.mse_loss(network(image), wanted) + receding(network, strength, 2.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def outputs(model, image):
    return run_batches(open_session(model, RunOptions("cpu", 1)), {"image": image})[0]


def pruned(model, **options):
    return compress(model, "auto", criterion="bn-scale", allocation="global", validation=False, **options)


def test_units_that_are_not_needed_recede_and_are_exactly_what_goes():
    network = trained(strength=0.25)
    scales = importances(network).numpy()
    assert scales[:NEEDED].min() > 0.9 and scales[NEEDED:].max() < 0.01

    model = exported(fold(network), SHAPE)
    image = np.random.default_rng(1).normal(size=(64, *SHAPE)).astype(np.float32)
    compressed = pruned(model, calibration={"image": image}).compressed
    kept = next(
        numpy_helper.to_array(each)[:, :, 0, 0]
        for each in compressed.to_proto().graph.initializer
        if each.dims[1:] == [UNITS, 1, 1]
    )
    np.testing.assert_allclose(kept, np.eye(UNITS)[:NEEDED], atol=1e-5)
    before, after = (outputs(each, image) for each in (model, compressed))
    np.testing.assert_allclose(after, before, atol=1e-2 * before.std())


def test_without_the_penalty_they_stay():
    network = trained(strength=0.0)
    assert importances(network)[NEEDED:].min() > 0.3
    with pytest.raises(NothingToRemove, match="finds no gap"):
        pruned(exported(fold(network), SHAPE))
