"""BatchNormalization whose scale is sigmoid(omega), in (0, 1) (Suteu and Guo, arXiv 2204.06404, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ..errors import UsageError

Network = TypeVar("Network", bound=nn.Module)

FIRST_OMEGA = 1.0
"""Where every omega begins: what PyTorch sets the scales of BatchNormalization to."""


class Sigmoid(nn.Module):
    """scale = sigmoid(omega)."""

    def forward(self, omega: Tensor) -> Tensor:
        """Scales in (0, 1), of omega's shape (channels,)."""
        return torch.sigmoid(omega)

    def right_inverse(self, scale: Tensor) -> Tensor:
        """The omega of these scales."""
        return torch.logit(scale)


def bounded(network: Network, shift: bool = False) -> Network:
    """Bound the scales of every BatchNormalization of 1, 2 or 3 dimensions that has some, in place.

    `network` is untrained: its scales begin anew, all at sigmoid(1). Without `shift` the layers lose theirs, as in the
    paper's code, so that a unit of scale 0 is 0. To be called before the optimiser is made; in checkpoints omega is
    `parametrizations.weight.original`. Returns the network. Raises UsageError where it has no such layer.
    """
    layers = [layer for layer in normalisations(network) if not is_bounded(layer)]
    if not layers:
        raise UsageError("has no BatchNormalization with a scale that could be bounded", "network")
    for layer in layers:
        if nn.parameter.is_lazy(layer.weight):
            raise UsageError("has lazy BatchNormalization, whose channels are not known; run it once first", "network")
        with torch.no_grad():
            layer.weight.fill_(torch.sigmoid(torch.tensor(FIRST_OMEGA)))
        parametrize.register_parametrization(layer, "weight", Sigmoid())
        if not shift:
            layer.bias = None
    return network


def fold(network: Network) -> Network:
    """A copy with ordinary BatchNormalization, scales sigmoid(omega) and shifts of 0 where there were none: the same
    outputs, and what any exporter takes."""
    folded = copy.deepcopy(network)
    for layer in normalisations(folded):
        if is_bounded(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight))
    return folded


def importances(network: nn.Module) -> Tensor:
    """|scale| of all channels of all BatchNormalization, bounded or not, float (channels,), without a gradient."""
    return torch.cat([layer.weight.detach().abs() for layer in normalisations(network)])


def omegas(network: nn.Module) -> list[nn.Parameter]:
    """The parameters omega, (channels,) each. Raises UsageError where there are none."""
    found = [layer.parametrizations["weight"].original for layer in normalisations(network) if is_bounded(layer)]
    if not found:
        raise UsageError("has no bounded BatchNormalization; call bounded(network) before training", "network")
    return found


def normalisations(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of BatchNormalization that have scales."""
    return (layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.affine)


def is_bounded(layer: nn.Module) -> bool:
    """Whether the scale of a layer is sigmoid(omega)."""
    return parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations["weight"][0], Sigmoid)
