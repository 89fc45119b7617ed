"""BatchNormalization whose scale is sigmoid(omega), in (0, 1) (Suteu and Guo, arXiv 2204.06404, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UsageError

FIRST_OMEGA = 1.0
"""Where every omega begins, as in the paper's code."""


class BoundedBatchNorm(nn.Module):
    """sigmoid(omega) * norm(x) + shift, for x of shape (N, C, ...).

    `norm`: BatchNormalization of 1, 2 or 3 dimensions, whose own scale and shift are taken away; `omega`: a parameter
    (C,); `shift`: a parameter (C,), or None as in the paper's code, so that a unit of scale 0 is 0.
    """

    def __init__(self, norm: _BatchNorm, shift: bool = False) -> None:
        super().__init__()
        weight = norm.weight
        norm.affine, norm.weight, norm.bias = False, None, None
        self.norm = norm
        self.omega = nn.Parameter(torch.full_like(weight, FIRST_OMEGA))
        self.shift = nn.Parameter(torch.zeros_like(weight)) if shift else None

    @property
    def scale(self) -> Tensor:
        """sigmoid(omega), (C,)."""
        return torch.sigmoid(self.omega)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised, scaled and perhaps shifted x."""
        along = (-1, *[1] * (x.dim() - 2))
        scaled = self.norm(x) * self.scale.view(along)
        return scaled if self.shift is None else scaled + self.shift.view(along)

    def folded(self) -> _BatchNorm:
        """The same as ordinary BatchNormalization."""
        norm = copy.deepcopy(self.norm)
        norm.affine = True
        norm.weight = nn.Parameter(self.scale.detach().clone())
        norm.bias = nn.Parameter(torch.zeros_like(self.omega) if self.shift is None else self.shift.detach().clone())
        return norm


def bounded(network: nn.Module, shift: bool = False) -> nn.Module:
    """Put `BoundedBatchNorm` in place of every BatchNormalization that has a scale, in the network itself.

    It is for networks that are not trained yet, as their scales begin anew, and is called before the optimiser is made.
    `shift`: let the layers keep a shift. Returns the network. Raises UsageError where it has no such layer.
    """
    if not any(has_scale(layer) for layer in network.modules()):
        raise UsageError("has no BatchNormalization with a scale that could be bounded", "network")
    if any(has_scale(layer) and nn.parameter.is_lazy(layer.weight) for layer in network.modules()):
        raise UsageError("has lazy BatchNormalization, whose channels are not known; run it once first", "network")
    return _replaced(network, lambda layer: BoundedBatchNorm(layer, shift) if has_scale(layer) else layer, {})


def fold(network: nn.Module) -> nn.Module:
    """A copy with ordinary BatchNormalization, scales sigmoid(omega), shifts 0 where there were none: the same outputs,
    and what any exporter takes."""
    copied = copy.deepcopy(network)
    return _replaced(copied, lambda layer: layer.folded() if isinstance(layer, BoundedBatchNorm) else layer, {})


def importances(network: nn.Module) -> Tensor:
    """|scale| of all channels of all BatchNormalization, bounded or not, float (channels,), without a gradient."""
    scales = [layer.scale if isinstance(layer, BoundedBatchNorm) else layer.weight for layer in scaled(network)]
    return torch.cat([scale.detach().abs() for scale in scales])


def omegas(network: nn.Module) -> list[nn.Parameter]:
    """The parameters omega, (C,) each. Raises UsageError where there are none."""
    found = [layer.omega for layer in network.modules() if isinstance(layer, BoundedBatchNorm)]
    if not found:
        raise UsageError("has no bounded BatchNormalization; call bounded(network) before training", "network")
    return found


def scaled(network: nn.Module) -> list[nn.Module]:
    """The layers of BatchNormalization that have scales, bounded or not. Raises UsageError where there are none."""
    found = [each for each in network.modules() if isinstance(each, BoundedBatchNorm) or has_scale(each)]
    if not found:
        raise UsageError("has no BatchNormalization with a scale", "network")
    return found


def has_scale(layer: nn.Module) -> bool:
    """Whether this is ordinary BatchNormalization with a scale."""
    return isinstance(layer, _BatchNorm) and layer.affine


def _replaced(layer: nn.Module, swap: Callable[[nn.Module], nn.Module], known: dict[nn.Module, nn.Module]) -> nn.Module:
    """The layer with all of its layers swapped; one that stands in several places stays one."""
    if layer not in known:
        known[layer] = swap(layer)
        if known[layer] is layer:
            for name, child in layer._modules.items():
                if child is not None:
                    setattr(layer, name, _replaced(child, swap, known))
    return known[layer]
