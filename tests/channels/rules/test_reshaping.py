import pytest
from graphs import Builder, between, check

from lbyl_onnx.channels.rule_context import RuleDoesNotApply
from lbyl_onnx.channels.rules.reshaping import blocks


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        ((2, 12, 5), (2, 3, 4, 5), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((2, 3, 4), (2, 12), [([0], [0]), ([1, 2], [1])]),
        ((2, 3, 4), (4, 6), [([0, 1, 2], [0, 1])]),
        ((4, 1), (4,), [([0], [0]), ([1], [])]),
        ((4,), (4, 1), [([0], [0]), ([], [1])]),
        ((2, 1, 3), (2, 3), [([0], [0]), ([1, 2], [1])]),
    ],
)
def test_blocks_hold_the_same_elements(before, after, pairs):
    assert blocks(before, after) == pairs


def test_blocks_of_an_empty_tensor():
    with pytest.raises(RuleDoesNotApply, match="empty"):
        blocks((2, 0), (0, 4))


def headed(middle, features, **options):
    """Conv "producer" (8 filters, 6 x 3) → `middle` → Gemm over `features`."""
    graph = Builder(**options)
    hidden = middle(graph, graph.conv(graph.input(), 3, 8, name="producer"))
    return graph.model(graph.gemm(hidden, features, 4, name="consumer"))


@pytest.mark.parametrize("axis", [1, -3])
def test_flatten_repeats_every_channel(axis):
    pruned = check(headed(lambda graph, x: graph.node("Flatten", x, axis=axis), 144), free=["producer"], units=8)
    consumer = pruned.group("producer").consumers[0]
    assert consumer.units[:19].tolist() == [0] * 18 + [1]
    assert pruned.shape(consumer.weight.name) == (4, 72)


def test_flatten_behind_the_channels():
    graph = Builder()
    hidden = graph.conv(graph.input((1, 3, 6, 3)), 3, 8, name="producer")
    hidden = graph.node("Flatten", hidden, axis=2)
    check(graph.model(graph.node("MatMul", graph.weight(5, 8), hidden)), free=["producer"], units=8)


def test_flatten_of_a_batch_and_channels_stays():
    check(
        headed(lambda graph, x: graph.node("Flatten", x, axis=2), 18),
        frozen={"producer": "merges them with an axis of varying size"},
    )


@pytest.mark.parametrize("target", [[0, -1], [-1, 144], [0, 144]])
def test_reshape_to_a_row(target):
    proto = headed(lambda graph, x: graph.node("Reshape", x, graph.constant(target)), 144)
    check(proto, free=["producer"], units=8)


def test_reshape_by_attribute():
    graph = Builder(opset=4)
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    hidden = graph.node("Reshape", hidden, shape=[-1, 144])
    check(graph.model(graph.matmul(hidden, 144, 4)), free=["producer"], units=8)


@pytest.mark.parametrize("target", [[0, 0, -1], [0, 8, 18], [-1, 8, 18], [0, -1, 18]])
def test_reshape_that_keeps_channels_on_their_axis(target):
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    tokens = graph.node("Reshape", hidden, graph.constant(target))
    tokens = graph.node("Transpose", tokens, perm=[0, 2, 1])
    check(graph.model(graph.matmul(tokens, 8, 5)), free=["producer"], units=8)


@pytest.mark.parametrize("target", [[0, 8, 6, 3], [0, -1, 6, 3], [-1, 8, 6, 3], [0, 0, 6, 3]])
def test_reshape_back_and_forth(target):
    def middle(graph, x):
        flat = graph.node("Reshape", x, graph.constant([0, 8, -1]))
        return graph.node("Reshape", graph.node("Relu", flat), graph.constant(target))

    check(between(middle), free=["producer"], units=8)


@pytest.mark.parametrize("groups", [2, 4])
def test_channel_shuffle(groups):
    """Every group loses the same channels, so that the shuffle stays one."""

    def middle(graph, x):
        split = graph.node("Reshape", x, graph.constant([0, groups, 12 // groups, 6, 3]))
        turned = graph.node("Transpose", split, perm=[0, 2, 1, 3, 4])
        return graph.node("Reshape", turned, graph.constant([0, 12, 6, 3]))

    pruned = check(between(middle, channels=12), free=["producer"])
    assert pruned.group("producer").units == max(groups, 12 // groups)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], None])
def test_squeeze(opset, axes):
    def middle(graph, x):
        pooled = graph.node("GlobalAveragePool", x)
        if axes is None:
            return graph.node("Squeeze", pooled)
        if opset < 13:
            return graph.node("Squeeze", pooled, axes=axes)
        return graph.node("Squeeze", pooled, graph.constant(axes))

    check(headed(middle, 8, opset=opset), free=["producer"], units=8)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_unsqueeze(opset, axes):
    graph = Builder(opset)
    hidden = graph.gemm(graph.input(("N", 6)), 6, 8, name="producer")
    if opset < 13:
        hidden = graph.node("Unsqueeze", hidden, axes=axes)
    else:
        hidden = graph.node("Unsqueeze", hidden, graph.constant(axes))
    check(graph.model(graph.conv(hidden, 8, 4, (1, 1))), free=["producer"], units=8)


def test_squeeze_of_a_single_channel():
    graph = Builder()
    hidden = graph.node("Squeeze", graph.conv(graph.input(), 3, 1, name="producer"), graph.constant([1]))
    check(graph.model(graph.matmul(hidden, 3, 4)), frozen={"producer": "output"})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    def middle(graph, x):
        return graph.node("DepthToSpace", x, blocksize=2, mode=mode)

    pruned = check(between(middle, channels=24, after=6), free=["producer"], units=6)
    assert pruned.kept[pruned.group("producer").classes].sum() == 3


def test_space_to_depth():
    def middle(graph, x):
        return graph.node("SpaceToDepth", x, blocksize=2)

    check(between(middle, after=32, space=(6, 2)), free=["producer"], units=8)


def test_pixel_shuffle_by_reshape():
    def middle(graph, x):
        split = graph.node("Reshape", x, graph.constant([0, 6, 2, 2, 6, 3]))
        turned = graph.node("Transpose", split, perm=[0, 1, 4, 2, 5, 3])
        return graph.node("Reshape", turned, graph.constant([0, 6, 12, 6]))

    check(between(middle, channels=24, after=6), free=["producer"], units=6)


def test_windows_over_space_pass_channels():
    """Swin: channels last, space cut into windows that join the batch."""
    graph = Builder()
    hidden = graph.matmul(graph.input((2, 4, 6, 3)), 3, 8, name="producer")
    windows = graph.node("Reshape", hidden, graph.constant([2, 2, 2, 3, 2, 8]))
    windows = graph.node("Transpose", windows, perm=[0, 1, 3, 2, 4, 5])
    windows = graph.node("Reshape", windows, graph.constant([-1, 4, 8]))
    check(graph.model(graph.matmul(windows, 8, 3)), free=["producer"], units=8)


def test_queries_keys_and_values_from_one_weight():
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 24, name="qkv")
    split = graph.node("Reshape", hidden, graph.constant([0, 5, 3, 2, 4]))
    split = graph.node("Transpose", split, perm=[2, 0, 3, 1, 4])
    query, key, value = (graph.node("Gather", split, graph.constant(index), axis=0) for index in range(3))
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
    context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    context = graph.node("Transpose", context, perm=[0, 2, 1, 3])
    joined = graph.node("Reshape", context, graph.constant([0, 5, 8]))
    pruned = check(graph.model(graph.matmul(joined, 8, 6)), free=["qkv"], ratio=0.5)
    assert pruned.group("qkv").units == 4


def test_two_channel_axes_that_merge_keep_one():
    graph = Builder()
    hidden = graph.node("MatMul", graph.weight(6, 5), graph.input(("N", 5, 7)), name="rows")
    hidden = graph.matmul(hidden, 7, 8, name="columns")
    flat = graph.node("Reshape", hidden, graph.constant([0, 48]))
    check(graph.model(graph.gemm(flat, 48, 3)), free=["columns"], frozen={"rows": "merges them with another"})


def test_a_channel_axis_that_merges_with_one_that_stays_is_free():
    """Heads that are normalised over their channels, and then put side by side."""
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 12, name="producer")
    heads = graph.node("Reshape", hidden, graph.constant([0, 5, 3, 4]))
    normed = graph.node("LayerNormalization", heads, graph.positive(4), axis=-1)
    joined = graph.node("Reshape", normed, graph.constant([0, 5, 12]))
    check(graph.model(graph.matmul(joined, 12, 3)), free=["producer"], units=3)
