"""Operators that treat every element alike: labels are equal along axes that broadcast together."""

from __future__ import annotations

from ..equivalence import Axis
from ..rule_context import RuleContext, RuleDoesNotApply
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
def unary(ctx: RuleContext) -> None:
    """The output's channels are the input's (Dropout's mask too)."""
    for slot in range(len(ctx.node.outputs)):
        ctx.set(ctx.axes(0), slot)


@rule("Gelu", "QuickGelu", "FastGelu", domain="com.microsoft")
def microsoft_activation(ctx: RuleContext) -> None:
    """As `unary`; FastGelu's bias broadcasts like an Add."""
    broadcast(ctx)


@rule("BiasGelu", "BiasAdd", domain="com.microsoft")
def microsoft_bias(ctx: RuleContext) -> None:
    """As Add."""
    broadcast(ctx)


@rule(*BROADCAST)
def broadcast(ctx: RuleContext) -> None:
    """Axes are aligned at the right; where two or more of them have the output's size, they are one."""
    if ctx.attr("broadcast", 0):
        raise RuleDoesNotApply(f"{ctx.title} broadcasts as before opset 7")
    shape = ctx.out_facts().shape
    axes: list[Axis] = []
    for position, size in enumerate(shape):
        members = []
        for slot in ctx.slots:
            axis = position - len(shape) + len(ctx.shape(slot))
            if axis < 0:
                continue
            if ctx.shape(slot)[axis] == size:
                members.append((slot, axis))
            else:
                ctx.freeze(ctx.axes(slot)[axis], "broadcasts them")
        axes.append(ctx.join(members) if members else None)
    ctx.set(axes)


@rule("BatchNormalization")
def batch_normalization(ctx: RuleContext) -> None:
    """Channels are axis 1; scale, shift, mean and variance hold one number each."""
    if sum(bool(tensor.name) for tensor in ctx.node.outputs) > 1:
        raise RuleDoesNotApply(f"{ctx.title} is in training mode")
    if not ctx.attr("spatial", 1):
        raise RuleDoesNotApply(f"{ctx.title} normalises every place for itself")
    _per_channel(ctx)


@rule("InstanceNormalization")
def instance_normalization(ctx: RuleContext) -> None:
    """Every channel has statistics of its own over space, so channels go one by one."""
    _per_channel(ctx)


def _per_channel(ctx: RuleContext) -> None:
    axes = ctx.axes(0)
    for axis in axes[2:]:
        ctx.freeze(axis, "computes statistics over them")
    channels = ctx.join([(0, 1), *((slot, 0) for slot in ctx.slots[1:])], couple=False)
    ctx.set([axes[0], channels, *([None] * len(axes[2:]))])


@rule("DynamicQuantizeLinear")
def quantize_dynamically(ctx: RuleContext) -> None:
    """The output's channels are the input's; scale and zero point are single numbers."""
    ctx.set(ctx.axes(0))


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(ctx: RuleContext) -> None:
    """Scale and zero point are scalars or vectors along `axis`; blocked quantisation is not covered."""
    axes = ctx.axes(0)
    if ctx.attr("block_size", 0):
        raise RuleDoesNotApply(f"{ctx.title} quantises in blocks")
    if len(ctx.shape(1)) == 1 and ctx.shape(1)[0] > 1:
        axis = ctx.attr("axis", 1) % len(axes)
        axes = list(axes)
        axes[axis] = ctx.join([(0, axis), *((slot, 0) for slot in ctx.slots[1:])], couple=False)
    ctx.set(axes)
