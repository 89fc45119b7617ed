"""For every operator with a rule, a way to use it in a random graph.

A signal is a tensor of shape (N, channels, 4, 4). A recipe appends one use of its operator to a graph and gives
the signal that comes out. Removed channels are compared with channels that are zero, so recipes keep clear of what a
zero would turn into NaN, and of numbers that grow without bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from graphs import Builder
from onnx import TensorProto

from lbyl_onnx.channels.rules import elementwise, reduction
from lbyl_onnx.channels.rules.recurrent import GATES

SIDE = 4
PLACES = SIDE * SIDE
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Signal:
    """A tensor (N, channels, 4, 4)."""

    name: str
    channels: int


class Net(Builder):
    """A graph of signals; `rng` decides whatever a recipe leaves open."""

    def __init__(self, opset: int, seed: int, batch: int | str) -> None:
        super().__init__(opset, ir_version=10, seed=seed)
        self.signals = [Signal(self.input((batch, 4, SIDE, SIDE)), 4)]

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def project(self, signal: Signal, channels: int, **attributes) -> Signal:
        """A 1 x 1 convolution."""
        return Signal(self.conv(signal.name, signal.channels, channels, (1, 1), **attributes), channels)

    def partner(self, signal: Signal) -> str:
        """Another signal of as many channels, or a constant that is broadcast to it."""
        alike = [other.name for other in self.signals if other.channels == signal.channels]
        shape = self.pick([(), (1,), (signal.channels, 1, 1), (1, signal.channels, 1, 1), (SIDE,)])
        return self.pick([*alike, self.weight(*shape), self.project(signal, signal.channels).name])

    def bounded(self, name: str) -> str:
        return self.node("Tanh", name)

    def positive_of(self, name: str) -> str:
        """Numbers in (0.5, 1.5)."""
        return self.node("Add", self.node("Sigmoid", name), self.constant(0.5))

    def cast(self, name: str, kind: int) -> str:
        return self.node("Cast", name, to=kind)

    def tokens(self, signal: Signal) -> str:
        """(N, 16, channels)."""
        rows = self.node("Reshape", signal.name, self.constant([0, signal.channels, PLACES]))
        return self.node("Transpose", rows, perm=[0, 2, 1])

    def image(self, tokens: str, channels: int) -> Signal:
        """Back from (N, 16, channels)."""
        rows = self.node("Transpose", tokens, perm=[0, 2, 1])
        return Signal(self.node("Reshape", rows, self.constant([0, channels, SIDE, SIDE])), channels)


Recipe = Callable[[Net, str, Signal], Signal]
RECIPES: dict[tuple[str, str], Recipe] = {}
STATIC = {("", op) for op in ("GridSample", "RoiAlign", "MaxRoiPool")}
"""Operators whose recipes need a batch of two."""
OLD = {("", op) for op in ("GlobalLpPool", "MaxRoiPool", "RoiAlign")}
"""Operators whose newest version onnxruntime does not have; they are used at opset 21, the others at 24."""


def recipe(*operators: str, domain: str = "") -> Callable[[Recipe], Recipe]:
    def register(function: Recipe) -> Recipe:
        RECIPES.update({(domain, op): function for op in operators})
        return function

    return register


# ---- elementwise


@recipe(*elementwise.UNARY)
def unary(net: Net, op: str, x: Signal) -> Signal:
    name = net.bounded(x.name)
    if op in ("Log", "Sqrt", "Reciprocal", "Acosh"):
        name = net.positive_of(x.name)
    if op == "Acosh":
        name = net.node("Add", name, net.constant(0.5))
    if op in ("Acos", "Asin", "Atanh"):
        name = net.node("Mul", name, net.constant(0.9))
    if op == "Not":
        name = net.node("Greater", name, net.constant(0.0))
    if op == "BitwiseNot":
        name = net.cast(net.node("Mul", name, net.constant(9.0)), TensorProto.INT32)
    more = [net.constant(0.0)] if op == "CastLike" else []
    attributes = {"to": TensorProto.FLOAT16} if op == "Cast" else {}
    made = net.node(op, name, *more, **attributes)
    return Signal(net.cast(made, TensorProto.FLOAT), x.channels)


@recipe(*elementwise.BROADCAST)
def broadcast(net: Net, op: str, x: Signal) -> Signal:
    left, right, attributes = x.name, net.partner(x), {}
    if op in ("And", "Or", "Xor"):
        left, right = (net.node("Greater", name, net.constant(0.0)) for name in (left, right))
    elif op.startswith("Bit"):
        left, right = (net.node("Mul", net.node("Sigmoid", name), net.constant(7.0)) for name in (left, right))
        left, right = (net.cast(name, TensorProto.UINT32) for name in (left, right))
        attributes = {"direction": net.pick(["LEFT", "RIGHT"])} if op == "BitShift" else {}
    elif op in ("Mul", "Sub"):
        left, right = net.bounded(left), net.bounded(right)
    elif op in ("Div", "Mod", "Pow"):
        left, right = net.positive_of(left), net.positive_of(right)
        attributes = {"fmod": 1} if op == "Mod" else {}
    elif op == "PRelu":
        right = net.weight(*net.pick([(1,), (x.channels, 1, 1), (1, 1, SIDE)]))
    if op == "Clip":
        made = net.node(op, left, net.constant(-0.5), net.constant(0.8))
    elif op == "Where":
        made = net.node(op, net.node("Greater", right, net.constant(0.0)), left, right)
    else:
        made = net.node(op, left, right, **attributes)
    return Signal(net.cast(made, TensorProto.FLOAT), x.channels)


@recipe("Gelu", "QuickGelu", "FastGelu", "BiasGelu", domain=MICROSOFT)
def fused_activation(net: Net, op: str, x: Signal) -> Signal:
    bias = [net.weight(x.channels)] if op == "BiasGelu" or (op == "FastGelu" and net.pick([0, 1])) else []
    return net.image(net.node(op, net.tokens(x), *bias, domain=MICROSOFT), x.channels)


@recipe("BatchNormalization")
def batch_normalization(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.batch_norm(net.project(x, 8).name, 8), 8)


@recipe("InstanceNormalization")
def instance_normalization(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.node(op, x.name, net.positive(x.channels), net.weight(x.channels)), x.channels)


@recipe("QuantizeLinear", "DequantizeLinear")
def quantise(net: Net, op: str, x: Signal) -> Signal:
    scale, zero = net.constant(0.02), net.constant(net.pick([0, 128]), np.uint8)
    whole = net.node("QuantizeLinear", net.bounded(x.name), scale, zero)
    return Signal(net.node("DequantizeLinear", whole, scale, zero), x.channels)


# ---- contractions


@recipe("Conv", "ConvTranspose")
def convolution(net: Net, op: str, x: Signal) -> Signal:
    group = net.pick([1, 1, 2, x.channels])
    filters = net.pick([4, 8]) if group == 1 else x.channels
    shape = (filters, x.channels // group) if op == "Conv" else (x.channels, filters // group)
    size = net.pick([1, 3])
    weights = [net.weight(*shape, size, size), *([net.weight(filters)] if net.pick([0, 1]) else [])]
    return Signal(net.node(op, x.name, *weights, group=group, pads=[size // 2] * 4), filters)


@recipe("FusedConv", domain=MICROSOFT)
def fused_convolution(net: Net, op: str, x: Signal) -> Signal:
    inputs = [x.name, net.weight(8, x.channels, 1, 1), net.weight(8)]
    if net.pick([0, 1]):
        inputs.append(net.project(x, 8).name)
    made = net.node(op, *inputs, kernel_shape=[1, 1], activation="Relu", domain=MICROSOFT)
    return Signal(made, 8)


@recipe("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
def integer_contraction(net: Net, op: str, x: Signal) -> Signal:
    hidden = Signal(net.node("Relu", net.project(x, 8).name), 8)
    tokens = op == "MatMulInteger"
    source = net.tokens(hidden) if tokens else hidden.name
    whole, scale, zero = net.nodes("DynamicQuantizeLinear", [source], 3)
    weight = net.constant(net.rng.integers(0, 9, (8, 4) if tokens else (4, 8, 1, 1)), np.uint8)
    made = net.node("MatMulInteger" if tokens else "ConvInteger", whole, weight, zero)
    made = net.node("Mul", net.cast(made, TensorProto.FLOAT), scale)
    made = net.node("Mul", made, net.constant(0.05))
    return net.image(made, 4) if tokens else Signal(made, 4)


@recipe("Gemm")
@recipe("FusedGemm", domain=MICROSOFT)
def gemm(net: Net, op: str, x: Signal) -> Signal:
    rows = net.node("Reshape", net.tokens(x), net.constant([-1, x.channels]))
    attributes = {"domain": MICROSOFT, "activation": "Relu"} if op == "FusedGemm" else {}
    made = net.node(op, rows, net.weight(8, x.channels), net.weight(8), transB=1, **attributes)
    return net.image(net.node("Reshape", made, net.constant([-1, PLACES, 8])), 8)


@recipe("MatMul")
@recipe("FusedMatMul", domain=MICROSOFT)
def matmul(net: Net, op: str, x: Signal) -> Signal:
    attributes = {"domain": MICROSOFT} if op == "FusedMatMul" else {}
    tokens = net.tokens(x)
    if net.pick([0, 1]):
        return net.image(net.node(op, tokens, net.weight(x.channels, 8), **attributes), 8)
    left, right = (net.matmul(tokens, x.channels, 8) for _ in range(2))
    scores = net.node(op, left, net.node("Transpose", right, perm=[0, 2, 1]), **attributes)
    return net.image(net.node("MatMul", net.node("Softmax", scores, axis=-1), left), 8)


@recipe("Einsum")
def einsum(net: Net, op: str, x: Signal) -> Signal:
    equation = net.pick(["nchw,co->nohw", "n...c,co->n...o", "bic,co"])
    source = x.name if equation.startswith("nchw") else net.tokens(x)
    made = net.node(op, source, net.weight(x.channels, 8), equation=equation)
    return Signal(made, 8) if equation.startswith("nchw") else net.image(made, 8)


# ---- movement


@recipe("Transpose", "Reshape")
def shuffle(net: Net, op: str, x: Signal) -> Signal:
    order = net.pick([[0, 2, 1, 3], [0, 1, 2, 3]])
    groups = net.pick([2, x.channels // 2])
    cut = net.node("Reshape", x.name, net.constant([0, groups, -1, PLACES]))
    return Signal(
        net.node("Reshape", net.node("Transpose", cut, perm=order), net.constant([0, -1, SIDE, SIDE])), x.channels
    )


@recipe("Concat")
def concat(net: Net, op: str, x: Signal) -> Signal:
    other = net.pick(net.signals)
    return Signal(net.node(op, x.name, other.name, axis=net.pick([1, -3])), x.channels + other.channels)


@recipe("Split")
def split(net: Net, op: str, x: Signal) -> Signal:
    first = int(net.rng.integers(1, x.channels))
    sizes = [first, x.channels - first]
    parts = net.nodes(op, [x.name, net.constant(sizes)], 2, axis=1)
    return Signal(net.node("Concat", *parts[::-1], axis=1), x.channels)


@recipe("Slice")
def slice_(net: Net, op: str, x: Signal) -> Signal:
    begin, end, step = net.pick([(0, x.channels // 2, 1), (-4, 2**31, 1), (1, 2**31, 2)])
    bounds = [net.constant([value]) for value in (begin, end, 1, step)]
    return Signal(net.node(op, x.name, *bounds), len(range(x.channels)[begin:end:step]))


@recipe("Gather")
def gather(net: Net, op: str, x: Signal) -> Signal:
    order = net.rng.permutation(x.channels)[: net.pick([x.channels, 4])]
    return Signal(net.node(op, x.name, net.constant(order), axis=1), len(order))


@recipe("Pad")
def pad(net: Net, op: str, x: Signal) -> Signal:
    before, after = net.pick([(0, 0), (2, 2)]), net.pick([(1, 1), (0, 0)])
    pads = [0, before[0], *after, 0, before[1], 0, 0]
    padded = net.node(op, x.name, net.constant(pads))
    if after[0]:
        padded = net.node("MaxPool", padded, kernel_shape=[2, 2])
    return Signal(padded, x.channels + sum(before))


@recipe("Expand")
def expand(net: Net, op: str, x: Signal) -> Signal:
    pooled = net.node("GlobalAveragePool", x.name)
    shape = net.pick([net.node("Shape", x.name), net.constant([1, x.channels, SIDE, SIDE])])
    return Signal(net.node(op, pooled, shape), x.channels)


@recipe("Tile")
def tile(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.node(op, x.name, net.constant([1, 2, 1, 1])), 2 * x.channels)


@recipe("Resize")
def resize(net: Net, op: str, x: Signal) -> Signal:
    if net.pick([0, 1]):
        large = net.node(op, x.name, "", net.constant([1.0, 1.0, 2.0, 2.0]))
    else:
        first = net.node("Slice", net.node("Shape", x.name), net.constant([0]), net.constant([2]))
        large = net.node(op, x.name, "", "", net.node("Concat", first, net.constant([8, 8]), axis=0))
    return Signal(net.node("MaxPool", large, kernel_shape=[2, 2], strides=[2, 2]), x.channels)


@recipe("Flatten", "Squeeze", "Unsqueeze")
def dense(net: Net, op: str, x: Signal) -> Signal:
    """A layer on the pooled or flattened signal, which gates it."""
    rows, width = x.name, x.channels * PLACES
    if op != "Flatten":
        rows, width = net.node("GlobalAveragePool", rows), x.channels
    rows = net.node("Flatten", rows) if op == "Flatten" else net.node("Squeeze", rows, net.constant([2, 3]))
    gate = net.node("Sigmoid", net.gemm(rows, width, x.channels))
    return Signal(net.node("Mul", x.name, net.node("Unsqueeze", gate, net.constant([2, 3]))), x.channels)


@recipe("DepthToSpace", "SpaceToDepth")
def blocks(net: Net, op: str, x: Signal) -> Signal:
    wide = net.project(x, 16)
    if op == "SpaceToDepth":
        deep = net.node(op, wide.name, blocksize=2)
        return Signal(net.node("DepthToSpace", deep, blocksize=2), 16)
    large = net.node(op, wide.name, blocksize=2, mode=net.pick(["DCR", "CRD"]))
    return Signal(net.node("AveragePool", large, kernel_shape=[2, 2], strides=[2, 2]), 4)


# ---- reductions and normalisations


@recipe(*reduction.POOLS)
def pool(net: Net, op: str, x: Signal) -> Signal:
    if op.startswith("Global"):
        return Signal(net.node("Sub", net.node(op, x.name), x.name), x.channels)
    return Signal(net.node(op, x.name, kernel_shape=[3, 3], pads=[1] * 4), x.channels)


@recipe(*reduction.REDUCTIONS)
def reduce(net: Net, op: str, x: Signal) -> Signal:
    axes = net.constant(net.pick([[2, 3], [-1], [1]]))
    return Signal(net.node("Sub", x.name, net.node(op, net.positive_of(x.name), axes)), x.channels)


@recipe("ArgMax", "ArgMin")
def place_of_extreme(net: Net, op: str, x: Signal) -> Signal:
    place = net.cast(net.node(op, x.name, axis=net.pick([1, 2])), TensorProto.FLOAT)
    return Signal(net.node("Add", x.name, place), x.channels)


@recipe("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_an_axis(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.node(op, net.positive_of(x.name), axis=net.pick([1, 2, -1])), x.channels)


@recipe("CumSum")
def running_sum(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.node(op, x.name, net.constant(net.pick([1, 3]))), x.channels)


@recipe("TopK")
def largest(net: Net, op: str, x: Signal) -> Signal:
    return Signal(net.nodes(op, [x.name, net.constant([SIDE])], 2, axis=net.pick([2, -1]))[0], x.channels)


@recipe("LayerNormalization", "RMSNormalization")
def layer_normalization(net: Net, op: str, x: Signal) -> Signal:
    if net.pick([0, 1]):
        return Signal(net.node(op, x.name, net.positive(SIDE), axis=-1), x.channels)
    return net.image(net.node(op, net.tokens(x), net.positive(x.channels), axis=-1), x.channels)


@recipe("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_normalization(net: Net, op: str, x: Signal) -> Signal:
    other = net.tokens(net.project(x, x.channels))
    made = net.node(op, net.tokens(x), other, net.positive(x.channels), domain=MICROSOFT)
    return net.image(made, x.channels)


@recipe("LRN", "MeanVarianceNormalization")
def other_normalization(net: Net, op: str, x: Signal) -> Signal:
    """Something varies in every channel, or its variance would be zero."""
    varied = net.node("Add", net.bounded(x.name), net.weight(SIDE, SIDE))
    attributes = {"size": 3} if op == "LRN" else {"axes": net.pick([[0, 2, 3], [1, 2, 3], [2, 3]])}
    return Signal(net.node(op, varied, **attributes), x.channels)


@recipe("GroupNormalization")
def group_normalization(net: Net, op: str, x: Signal) -> Signal:
    wide = net.project(x, 8)
    made = net.node(op, wide.name, net.positive(8), net.weight(8), num_groups=net.pick([2, 4, 8]))
    return Signal(made, 8)


# ---- attention, recurrence, sampling


@recipe("Attention", "MultiHeadAttention", domain=MICROSOFT)
def attention_of_the_runtime(net: Net, op: str, x: Signal) -> Signal:
    tokens = net.tokens(x)
    if op == "Attention":
        inputs = [tokens, net.weight(x.channels, 24), net.weight(24)]
    else:
        inputs = [net.matmul(tokens, x.channels, 8) for _ in range(3)]
    return net.image(net.node(op, *inputs, num_heads=net.pick([2, 4]), domain=MICROSOFT), 8)


@recipe("Attention")
def attention(net: Net, op: str, x: Signal) -> Signal:
    heads = net.pick([2, 4])
    parts = [net.matmul(net.tokens(x), x.channels, 8) for _ in range(3)]
    return net.image(net.node(op, *parts, q_num_heads=heads, kv_num_heads=heads), 8)


@recipe("RotaryEmbedding")
def rotary(net: Net, op: str, x: Signal, domain: str = "") -> Signal:
    tokens = net.matmul(net.tokens(x), x.channels, 8)
    shaped = net.node("Transpose", net.node("Reshape", tokens, net.constant([0, PLACES, 2, 4])), perm=[0, 2, 1, 3])
    batch = net.node("Shape", tokens, start=0, end=1)
    shape = net.node("Concat", batch, net.constant([PLACES]), axis=0)
    places = net.node("Expand", net.constant([list(range(PLACES))]), shape)
    caches = net.weight(PLACES, 2), net.weight(PLACES, 2)
    turned = net.node(op, shaped, *((places, *caches) if domain else (*caches, places)), domain=domain)
    back = net.node("Reshape", net.node("Transpose", turned, perm=[0, 2, 1, 3]), net.constant([0, 0, -1]))
    return net.image(back, 8)


@recipe("RotaryEmbedding", domain=MICROSOFT)
def rotary_of_the_runtime(net: Net, op: str, x: Signal) -> Signal:
    return rotary(net, op, x, MICROSOFT)


@recipe(*GATES)
def recurrent(net: Net, op: str, x: Signal) -> Signal:
    steps = net.node("Transpose", net.tokens(x), perm=[1, 0, 2])
    directions = net.pick([1, 2])
    weights = [net.weight(directions, GATES[op] * 4, size) for size in (x.channels, 4)]
    direction = "bidirectional" if directions == 2 else "forward"
    hidden = net.node(op, steps, *weights, hidden_size=4, direction=direction)
    rows = net.node("Transpose", hidden, perm=[2, 0, 1, 3])
    tokens = net.node("Reshape", net.node("Transpose", rows, perm=[0, 2, 1, 3]), net.constant([0, 0, -1]))
    return net.image(tokens, 4 * directions)


@recipe("GridSample", "RoiAlign", "MaxRoiPool")
def sample(net: Net, op: str, x: Signal) -> Signal:
    corners = np.array([[0.0, 0.0, 3.0, 2.0], [1.0, 0.0, 2.0, 3.0]])
    if op == "GridSample":
        return Signal(net.node(op, x.name, net.constant(net.rng.uniform(-1, 1, (2, SIDE, SIDE, 2)))), x.channels)
    if op == "RoiAlign":
        regions = [net.constant(corners), net.constant([0, 1])]
        return Signal(net.node(op, x.name, *regions, output_height=SIDE, output_width=SIDE), x.channels)
    regions = [net.constant(np.column_stack([[0.0, 1.0], corners]))]
    return Signal(net.node(op, x.name, *regions, pooled_shape=[SIDE, SIDE]), x.channels)
