"""Attention and feed-forward blocks in the forms that exporters write them in: what goes, and that it goes exactly."""

import numpy as np
import pytest
from graphs import Builder, assert_same_outputs, check

HEADS, SIZE = 3, 4
WIDTH = HEADS * SIZE
LENGTH = 5


def linear(graph, x, inputs, outputs, name):
    """MatMul and Add, as PyTorch exports a Linear over sequences."""
    return graph.node("Add", graph.matmul(x, inputs, outputs, name=name), graph.weight(outputs))


def split_heads(graph, x, heads=HEADS, size=SIZE, order=(0, 2, 1, 3)):
    """(N, L, heads * size) → (N, heads, L, size)."""
    shaped = graph.node("Reshape", x, graph.constant([0, -1, heads, size]))
    return graph.node("Transpose", shaped, perm=order)


def merge_heads(graph, x, width=WIDTH):
    merged = graph.node("Transpose", x, perm=[0, 2, 1, 3])
    return graph.node("Reshape", merged, graph.constant([0, -1, width]))


def softmax(graph, scores):
    return graph.node("Softmax", scores, axis=-1)


def decomposed_softmax(graph, scores):
    largest = graph.node("ReduceMax", scores, axes=[-1])
    powers = graph.node("Exp", graph.node("Sub", scores, largest))
    total = graph.node("ReduceSum", powers, graph.constant([-1]))
    return graph.node("Div", powers, total)


def attend(graph, queries, keys, values, normalise=softmax):
    """Attention over (N, heads, L, size) tensors."""
    transposed = graph.node("Transpose", keys, perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", queries, transposed)
    scores = graph.node("Mul", scores, graph.constant(SIZE**-0.5))
    return graph.node("MatMul", normalise(graph, scores), values)


def separate(graph, x):
    return [split_heads(graph, linear(graph, x, WIDTH, WIDTH, name)) for name in ("q", "k", "v")]


def fused(graph, x):
    return linear(graph, x, WIDTH, 3 * WIDTH, "qkv")


def in_five_axes(graph, x, order=(2, 0, 3, 1, 4)):
    """(N, L, 3 * WIDTH) → (3, N, heads, L, size) in the usual order."""
    shaped = graph.node("Reshape", fused(graph, x), graph.constant([0, -1, 3, HEADS, SIZE]))
    return graph.node("Transpose", shaped, perm=order)


def gathered(graph, x):
    stacked = in_five_axes(graph, x)
    return [graph.node("Gather", stacked, graph.constant(index), axis=0) for index in range(3)]


def split_five(graph, x):
    parts = graph.nodes("Split", [in_five_axes(graph, x), graph.constant([1, 1, 1])], 3, axis=0)
    return [graph.node("Squeeze", part, graph.constant([0])) for part in parts]


def sliced_five(graph, x):
    stacked = in_five_axes(graph, x)
    bounds = [graph.constant([value]) for value in range(4)]
    parts = [graph.node("Slice", stacked, bounds[i], bounds[i + 1], bounds[0]) for i in range(3)]
    return [graph.node("Squeeze", part, graph.constant([0])) for part in parts]


def split_then_heads(graph, x):
    parts = graph.nodes("Split", [fused(graph, x), graph.constant([WIDTH] * 3)], 3, axis=2)
    return [split_heads(graph, part) for part in parts]


def sliced_then_heads(graph, x):
    whole, axis = fused(graph, x), graph.constant([2])
    bounds = [graph.constant([value * WIDTH]) for value in range(4)]
    return [split_heads(graph, graph.node("Slice", whole, bounds[i], bounds[i + 1], axis)) for i in range(3)]


def gathered_then_heads(graph, x):
    whole = fused(graph, x)
    indices = [graph.constant(np.arange(i * WIDTH, (i + 1) * WIDTH)) for i in range(3)]
    return [split_heads(graph, graph.node("Gather", whole, index, axis=2)) for index in indices]


def heads_then_split(graph, x):
    """LeViT and GPT-NeoX: each head holds its own query, key and value."""
    shaped = graph.node("Reshape", fused(graph, x), graph.constant([0, -1, HEADS, 3 * SIZE]))
    parts = graph.nodes("Split", [shaped, graph.constant([SIZE] * 3)], 3, axis=3)
    return [graph.node("Transpose", part, perm=[0, 2, 1, 3]) for part in parts]


def block(form, normalise=softmax, attention=attend, length=LENGTH):
    """x (N, L, WIDTH) → attention → linear "out"."""
    graph = Builder()
    mixed = merge_heads(graph, attention(graph, *form(graph, graph.input(("N", length, WIDTH))), normalise))
    return graph.model(linear(graph, mixed, WIDTH, WIDTH, "out"))


FORMS = [
    separate,
    gathered,
    split_five,
    sliced_five,
    split_then_heads,
    sliced_then_heads,
    gathered_then_heads,
    heads_then_split,
]


@pytest.mark.parametrize("normalise", [softmax, decomposed_softmax])
@pytest.mark.parametrize("form", FORMS)
def test_attention(form, normalise):
    check(block(form, normalise), free=["q", "k", "v"] if form is separate else ["qkv"])


def test_attention_over_a_dynamic_length():
    check(block(separate, length="L"), free=["q", "k", "v"])


@pytest.mark.parametrize("shape", [(1, HEADS, LENGTH, LENGTH), (HEADS, 1, 1), (LENGTH, LENGTH)])
def test_bias_on_scores(shape):
    def attention(graph, queries, keys, values, normalise):
        scores = graph.node("MatMul", queries, graph.node("Transpose", keys, perm=[0, 1, 3, 2]))
        return graph.node("MatMul", normalise(graph, graph.node("Add", scores, graph.weight(*shape))), values)

    check(block(gathered, attention=attention), free=["qkv"])


def test_a_table_of_relative_positions():
    def attention(graph, queries, keys, values, normalise):
        scores = graph.node("MatMul", queries, graph.node("Transpose", keys, perm=[0, 1, 3, 2]))
        places = graph.constant(np.arange(LENGTH * LENGTH).reshape(LENGTH, LENGTH) % 7)
        bias = graph.node("Gather", graph.weight(7, HEADS), places, axis=0)
        bias = graph.node("Unsqueeze", graph.node("Transpose", bias, perm=[2, 0, 1]), graph.constant([0]))
        return graph.node("MatMul", normalise(graph, graph.node("Add", scores, bias)), values)

    check(block(separate, attention=attention), free=["q", "k", "v"])


def rotate_half(graph, x, size=SIZE):
    bounds = [graph.constant([value]) for value in (0, size // 2, 2**31)]
    axis = graph.constant([3])
    first, second = (graph.node("Slice", x, bounds[i], bounds[i + 1], axis) for i in (0, 1))
    return graph.node("Concat", graph.node("Neg", second), first, axis=3)


def rotated(graph, x, cosines, sines):
    turned = graph.node("Mul", rotate_half(graph, x), sines)
    return graph.node("Add", graph.node("Mul", x, cosines), turned)


def test_rotary_positions_from_a_table():
    def attention(graph, queries, keys, values, normalise):
        tables = graph.weight(LENGTH, SIZE), graph.weight(LENGTH, SIZE)
        queries, keys = (rotated(graph, x, *tables) for x in (queries, keys))
        return attend(graph, queries, keys, values, normalise)

    check(block(separate, attention=attention), free=["q", "k", "v"], units=SIZE // 2)


@pytest.mark.parametrize("length", [LENGTH, "L"])
def test_rotary_positions_computed_from_the_length(length):
    def tables(graph, x):
        count = graph.node("Gather", graph.node("Shape", x), graph.constant(1), axis=0)
        places = graph.node("Range", graph.constant(0), count, graph.constant(1))
        column = graph.node("Unsqueeze", graph.node("Cast", places, to=1), graph.constant([1]))
        angles = graph.node("MatMul", column, graph.positive(1, SIZE // 2))
        angles = graph.node("Concat", angles, angles, axis=1)
        return graph.node("Cos", angles), graph.node("Sin", angles)

    graph = Builder()
    x = graph.input(("N", length, WIDTH))
    cosines, sines = tables(graph, x)
    queries, keys, values = separate(graph, x)
    queries, keys = (rotated(graph, part, cosines, sines) for part in (queries, keys))
    mixed = merge_heads(graph, attend(graph, queries, keys, values))
    check(graph.model(linear(graph, mixed, WIDTH, WIDTH, "out")), free=["q", "k", "v"], units=SIZE // 2)


def test_rotary_positions_of_alternating_channels():
    def rotate_pairs(graph, x):
        starts, ends, axis, step = (graph.constant([value]) for value in (0, 2**31, 3, 2))
        even = graph.node("Slice", x, starts, ends, axis, step)
        odd = graph.node("Slice", x, graph.constant([1]), ends, axis, step)
        parts = [graph.node("Unsqueeze", part, graph.constant([4])) for part in (graph.node("Neg", odd), even)]
        pairs = graph.node("Concat", *parts, axis=4)
        return graph.node("Reshape", pairs, graph.constant([0, HEADS, LENGTH, SIZE]))

    def attention(graph, queries, keys, values, normalise):
        turned = [graph.node("Add", x, rotate_pairs(graph, x)) for x in (queries, keys)]
        return attend(graph, *turned, values, normalise)

    check(block(separate, attention=attention), free=["q", "k", "v"], units=SIZE // 2)


def test_normalised_queries_and_keys_leave_whole_heads():
    def attention(graph, queries, keys, values, normalise):
        queries, keys = (graph.node("LayerNormalization", x, graph.positive(SIZE)) for x in (queries, keys))
        return attend(graph, queries, keys, values, normalise)

    check(block(separate, attention=attention), free=["q", "k", "v"], units=HEADS)


@pytest.mark.parametrize("form", ["expand", "tile", "concat", "gather"])
def test_grouped_queries(form):
    """Four heads of queries share two heads of keys and values."""
    heads, shared = 4, 2

    def repeat(graph, x):
        if form == "concat":
            return graph.node("Concat", x, x, axis=1)
        if form == "gather":
            return graph.node("Gather", x, graph.constant([0, 0, 1, 1]), axis=1)
        wide = graph.node("Unsqueeze", x, graph.constant([2]))
        if form == "expand":
            wide = graph.node("Expand", wide, graph.constant([1, 1, heads // shared, 1, 1]))
        else:
            wide = graph.node("Tile", wide, graph.constant([1, 1, heads // shared, 1, 1]))
        return graph.node("Reshape", wide, graph.constant([0, heads, LENGTH, SIZE]))

    graph = Builder()
    x = graph.input(("N", LENGTH, WIDTH))
    queries = split_heads(graph, linear(graph, x, WIDTH, heads * SIZE, "q"), heads)
    keys, values = (split_heads(graph, linear(graph, x, WIDTH, shared * SIZE, name), shared) for name in "kv")
    mixed = attend(graph, queries, repeat(graph, keys), repeat(graph, values))
    mixed = merge_heads(graph, mixed, heads * SIZE)
    check(graph.model(linear(graph, mixed, heads * SIZE, WIDTH, "out")), free=["q", "k", "v"])


def test_attention_over_another_sequence():
    graph = Builder()
    queries = split_heads(graph, linear(graph, graph.input(("N", LENGTH, WIDTH)), WIDTH, WIDTH, "q"))
    other = graph.input(("N", 7, 9), name="other")
    keys, values = (split_heads(graph, linear(graph, other, 9, WIDTH, name)) for name in "kv")
    mixed = merge_heads(graph, attend(graph, queries, keys, values))
    check(graph.model(linear(graph, mixed, WIDTH, WIDTH, "out")), free=["q", "k", "v"])


def test_attention_within_windows():
    """Maps of 4 x 4 places in windows of 2 x 2, as Swin cuts them."""
    graph = Builder()
    x = graph.input(("N", 4, 4, WIDTH))
    wide = linear(graph, x, WIDTH, WIDTH, "stem")
    cut = graph.node("Reshape", wide, graph.constant([-1, 2, 2, 2, 2, WIDTH]))
    windows = graph.node("Transpose", cut, perm=[0, 1, 3, 2, 4, 5])
    windows = graph.node("Reshape", windows, graph.constant([-1, 4, WIDTH]))
    mixed = merge_heads(graph, attend(graph, *gathered(graph, windows)))
    mixed = linear(graph, mixed, WIDTH, WIDTH, "out")
    back = graph.node("Reshape", mixed, graph.constant([-1, 2, 2, 2, 2, WIDTH]))
    back = graph.node(
        "Reshape", graph.node("Transpose", back, perm=[0, 1, 3, 2, 4, 5]), graph.constant([-1, 4, 4, WIDTH])
    )
    check(graph.model(graph.matmul(graph.node("Add", wide, back), WIDTH, 3)), free=["qkv", "stem"])


def test_heads_as_axes_of_the_weight():
    """Keras' MultiHeadAttention: the projection's weight is (width, heads, size)."""
    graph = Builder()
    x = graph.input(("N", LENGTH, WIDTH))
    parts = [
        graph.node("Einsum", x, graph.weight(WIDTH, HEADS, SIZE), equation="abc,cde->abde", name=name) for name in "qkv"
    ]
    scores = graph.node("Einsum", parts[1], parts[0], equation="aecd,abcd->acbe")
    mixed = graph.node("Einsum", softmax(graph, scores), parts[2], equation="acbe,aecd->abcd")
    out = graph.node("Einsum", mixed, graph.weight(HEADS, SIZE, WIDTH), equation="abcd,cde->abe", name="out")
    check(graph.model(out), free=["q", "k", "v"])


def test_pooling_by_a_learned_query():
    graph = Builder()
    x = graph.input(("N", LENGTH, WIDTH))
    keys, values = (split_heads(graph, linear(graph, x, WIDTH, WIDTH, name)) for name in "kv")
    mixed = merge_heads(graph, attend(graph, graph.weight(1, HEADS, 1, SIZE), keys, values))
    check(graph.model(linear(graph, mixed, WIDTH, 3, "out")), free=["k", "v"])


def exact_gelu(graph, x):
    curve = graph.node("Erf", graph.node("Div", x, graph.constant(2**0.5)))
    product = graph.node("Mul", x, graph.node("Add", curve, graph.constant(1.0)))
    return graph.node("Mul", product, graph.constant(0.5))


def tanh_gelu(graph, x):
    cube = graph.node("Mul", graph.node("Pow", x, graph.constant(3.0)), graph.constant(0.044715))
    inner = graph.node("Mul", graph.node("Add", x, cube), graph.constant((2 / np.pi) ** 0.5))
    gate = graph.node("Add", graph.node("Tanh", inner), graph.constant(1.0))
    return graph.node("Mul", graph.node("Mul", x, gate), graph.constant(0.5))


def swish(graph, x):
    return graph.node("Mul", x, graph.node("Sigmoid", x))


@pytest.mark.parametrize("activation", [exact_gelu, tanh_gelu, swish])
def test_feed_forward(activation):
    graph = Builder()
    hidden = activation(graph, linear(graph, graph.input(("N", LENGTH, 6)), 6, 10, "up"))
    check(graph.model(linear(graph, hidden, 10, 6, "down")), free=["up"], units=10)


@pytest.mark.parametrize("form", ["separate", "split", "slices"])
def test_gated_feed_forward(form):
    graph = Builder()
    x = graph.input(("N", LENGTH, 6))
    if form == "separate":
        gate, up = graph.matmul(x, 6, 10, name="gate"), graph.matmul(x, 6, 10, name="up")
    elif form == "split":
        gate, up = graph.nodes("Split", [graph.matmul(x, 6, 20, name="gate"), graph.constant([10, 10])], 2, axis=-1)
    else:
        both, bounds = graph.matmul(x, 6, 20, name="gate"), [graph.constant([value]) for value in (0, 10, 2**63 - 1)]
        gate, up = (graph.node("Slice", both, bounds[i], bounds[i + 1], graph.constant([-1])) for i in (0, 1))
    hidden = graph.node("Mul", swish(graph, gate), up)
    check(graph.model(graph.matmul(hidden, 10, 6)), free=["gate"], units=10)


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization", "decomposed"])
def test_a_normalised_stream_stays_and_says_why(norm):
    graph = Builder(opset=23 if norm == "RMSNormalization" else 17)
    stream = linear(graph, graph.input(("N", LENGTH, 6)), 6, 8, "embed")
    if norm == "decomposed":
        centred = graph.node("Sub", stream, graph.node("ReduceMean", stream, axes=[-1], name="norm"))
        variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), axes=[-1])
        x = graph.node("Div", centred, graph.node("Sqrt", graph.node("Add", variance, graph.constant(1e-5))))
    else:
        x = graph.node(norm, stream, graph.positive(8), axis=-1, name="norm")
    hidden = graph.node("Relu", linear(graph, x, 8, 10, "up"))
    stream = graph.node("Add", stream, linear(graph, hidden, 10, 8, "down"))
    reason = "ReduceMean 'norm' reduces over them" if norm == "decomposed" else f"{norm} 'norm' normalises over them"
    check(graph.model(graph.matmul(stream, 8, 3)), free=["up"], frozen={"embed": reason, "down": reason})


@pytest.mark.parametrize("batch", ["N", 2])
def test_heads_that_join_the_batch(batch):
    """PyTorch's MultiheadAttention: (L, N, heads * size) → (L, N * heads, size) and back, whatever N is."""
    graph = Builder()
    x = graph.input((LENGTH, batch, WIDTH))
    count = graph.node("Gather", graph.node("Shape", x), graph.constant([1]))
    joined = graph.node("Mul", count, graph.constant([HEADS]))
    target = graph.node("Concat", graph.constant([LENGTH]), joined, graph.constant([SIZE]), axis=0)
    parts = [graph.node("Reshape", linear(graph, x, WIDTH, WIDTH, name), target) for name in "qkv"]
    queries, keys, values = (graph.node("Transpose", part, perm=[1, 0, 2]) for part in parts)
    scores = graph.node("MatMul", queries, graph.node("Transpose", keys, perm=[0, 2, 1]))
    mixed = graph.node("Transpose", graph.node("MatMul", softmax(graph, scores), values), perm=[1, 0, 2])
    rows = graph.node("Reshape", mixed, graph.constant([-1, WIDTH]))
    out = graph.node("Gemm", rows, graph.weight(WIDTH, WIDTH), name="out")
    target = graph.node("Concat", graph.constant([LENGTH]), count, graph.constant([WIDTH]), axis=0)
    pruned = check(graph.model(graph.node("Reshape", out, target)), free=["q", "k", "v"], units=SIZE)
    for size in (1, 5) if batch == "N" else ():
        assert_same_outputs(pruned, shapes={"x": (LENGTH, size, WIDTH)})


def test_attention_among_learned_queries():
    """DETR: nothing but constants, and a scale that is computed from a shape."""
    graph = Builder()
    stream = graph.weight(1, LENGTH, WIDTH)
    parts = [split_heads(graph, linear(graph, stream, WIDTH, WIDTH, name)) for name in "qkv"]
    size = graph.node("Slice", graph.node("Shape", parts[0]), graph.constant([3]), graph.constant([4]))
    scale = graph.node("Reciprocal", graph.node("Sqrt", graph.node("Cast", size, to=1)))
    parts[0] = graph.node("Mul", parts[0], scale)
    queries = linear(graph, merge_heads(graph, attend(graph, *parts)), WIDTH, WIDTH, "out")
    stream = graph.node("Add", queries, linear(graph, graph.input(("N", LENGTH, 9)), 9, WIDTH, "free"))
    check(graph.model(graph.matmul(stream, WIDTH, 3)), free=["free"], units=WIDTH)
