"""Operators that treat every element alike: labels are equal along axes that broadcast together."""

from __future__ import annotations

from ..labelling import RuleDoesNotApply, Site
from ..labels import Axis
from .registry import rule

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Cos Cosh Dropout Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""".split()
BROADCAST = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual
    Max Mean Min Mod Mul Or Pow PRelu Sub Sum Where Xor
""".split()


@rule(*UNARY)
def unary(site: Site) -> None:
    """The output's channels are the input's (Dropout's mask too)."""
    for slot in range(len(site.node.outputs)):
        site.set(site.axes(0), slot)


@rule("Gelu", "QuickGelu", "FastGelu", domain="com.microsoft")
def microsoft_activation(site: Site) -> None:
    """As `unary`; FastGelu's bias broadcasts like an Add."""
    broadcast(site)


@rule("BiasGelu", "BiasAdd", domain="com.microsoft")
def microsoft_bias(site: Site) -> None:
    """As Add."""
    broadcast(site)


@rule(*BROADCAST)
def broadcast(site: Site) -> None:
    """Axes are aligned at the right; where two or more of them have the output's size, they are one."""
    if site.attr("broadcast", 0):
        raise RuleDoesNotApply(f"{site.title} broadcasts as before opset 7")
    shape = site.out_facts().shape
    axes: list[Axis] = []
    for position, size in enumerate(shape):
        members = []
        for slot in site.slots:
            axis = position - len(shape) + len(site.shape(slot))
            if axis < 0:
                continue
            if site.shape(slot)[axis] == size:
                members.append((slot, axis))
            else:
                site.freeze(site.axes(slot)[axis], "broadcasts them")
        axes.append(site.join(members) if members else None)
    site.set(axes)


@rule("BatchNormalization")
def batch_normalization(site: Site) -> None:
    """Channels are axis 1; scale, shift, mean and variance hold one number each."""
    if sum(bool(tensor.name) for tensor in site.node.outputs) > 1:
        raise RuleDoesNotApply(f"{site.title} is in training mode")
    if not site.attr("spatial", 1):
        raise RuleDoesNotApply(f"{site.title} normalises every place for itself")
    _per_channel(site)


@rule("InstanceNormalization")
def instance_normalization(site: Site) -> None:
    """Every channel has statistics of its own over space, so channels go one by one."""
    _per_channel(site)


def _per_channel(site: Site) -> None:
    axes = site.axes(0)
    for axis in axes[2:]:
        site.freeze(axis, "computes statistics over them")
    channels = site.join([(0, 1), *((slot, 0) for slot in site.slots[1:])], couple=False)
    site.set([axes[0], channels, *([None] * len(axes[2:]))])


@rule("DynamicQuantizeLinear")
def quantize_dynamically(site: Site) -> None:
    """The output's channels are the input's; scale and zero point are single numbers."""
    site.set(site.axes(0))


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(site: Site) -> None:
    """Scale and zero point are scalars or vectors along `axis`; blocked quantisation is not covered."""
    axes = site.axes(0)
    if site.attr("block_size", 0):
        raise RuleDoesNotApply(f"{site.title} quantises in blocks")
    if len(site.shape(1)) == 1 and site.shape(1)[0] > 1:
        axis = site.attr("axis", 1) % len(axes)
        axes = list(axes)
        axes[axis] = site.join([(0, axis), *((slot, 0) for slot in site.slots[1:])], couple=False)
    site.set(axes)
