"""Penalties on the scales of BatchNormalization, to be added to the loss, and the optimiser's parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch_normalisation import BoundedBatchNorm, omegas, scaled

OMEGA_RATE = 10.0
"""How many times faster omega learns than the weights, in the paper's code."""


def receding(network: nn.Module, strength: float = 1e-3, b: float = 3.0) -> Tensor:
    """strength * sum p (1 - ln p) over all channels, p = sigmoid(omega + b): a scalar (arXiv 2204.06404).

    It is flat where p is near 1 and steep below, so that only scales that are small already recede; `b` moves that to
    the left. The paper has 1e-3 and 3 for VGG-16, 1e-4 and 0 for ResNet-56. Raises UsageError where no
    BatchNormalization is bounded.
    """
    shifted = torch.cat([omega + b for omega in omegas(network)])
    return strength * (torch.sigmoid(shifted) * (1 - F.logsigmoid(shifted))).sum()


def l1(network: nn.Module, strength: float = 1e-4) -> Tensor:
    """strength * sum |scale| over all channels, a scalar: network slimming (Liu et al., ICCV 2017). Raises UsageError
    where there is no BatchNormalization with a scale."""
    scales = [layer.scale if isinstance(layer, BoundedBatchNorm) else layer.weight for layer in scaled(network)]
    return strength * torch.cat(scales).abs().sum()


def parameter_groups(network: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """What an optimiser of torch.optim takes in place of parameters: omega learns at ten times the rate and without
    weight decay. Raises UsageError where no BatchNormalization is bounded."""
    bounds = omegas(network)
    apart = {id(parameter) for parameter in bounds}
    others = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    return [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": bounds, "lr": OMEGA_RATE * lr, "weight_decay": 0.0},
    ]
