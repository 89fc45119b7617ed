import numpy as np
import pytest
from graphs import Builder, Pruned, assert_equivalent, between, check

from lbyl_onnx.channels.groups import analyse
from lbyl_onnx.channels.probe import probe
from lbyl_onnx.channels.surgery import cut
from lbyl_onnx.model.reading import load

INT_MAX = 2**63 - 1


def test_transpose():
    graph = Builder()
    x = graph.node("Transpose", graph.input(("N", 6, 3, 3)), perm=[0, 3, 1, 2])
    hidden = graph.node("Transpose", graph.conv(x, 3, 8, name="producer"), perm=[0, 2, 3, 1])
    hidden = graph.node("Add", graph.node("Relu", hidden), graph.weight(8))
    pruned = check(graph.model(graph.matmul(hidden, 8, 4)), free=["producer"], units=8)
    assert not pruned.group("producer").coupled


def test_transpose_without_an_order_reverses_the_axes():
    graph = Builder()
    hidden = graph.node("Transpose", graph.gemm(graph.input((5, 6)), 6, 8, name="producer"))
    check(graph.model(graph.node("MatMul", graph.weight(3, 8), hidden)), free=["producer"], units=8)


@pytest.mark.parametrize("axis", [1, -3])
def test_concat_puts_channels_end_to_end(axis):
    graph = Builder()
    x = graph.input()
    parts = [
        graph.conv(x, 3, 8, name="first"),
        graph.conv(x, 3, 6, name="second"),
        graph.conv(x, 3, 5, name="third"),
    ]
    joined = graph.node("Relu", graph.node("Concat", *parts, axis=axis))
    pruned = check(graph.model(graph.conv(joined, 19, 4)), free=["first", "second", "third"], units=8)
    assert pruned.group("first").coupled
    assert [pruned.group(name).units for name in ("second", "third")] == [6, 5]


def test_concat_of_a_tensor_with_itself():
    check(between(lambda graph, x: graph.node("Concat", x, x, axis=1), after=16), free=["producer"], units=8)


def test_concat_with_the_input_keeps_the_input_whole():
    graph = Builder()
    x = graph.input()
    joined = graph.node("Concat", x, graph.conv(x, 3, 8, name="producer"), axis=1)
    pruned = check(graph.model(graph.conv(joined, 11, 4, name="consumer")), free=["producer"], units=8)
    assert pruned.shape(pruned.group("producer").consumers[0].weight.name)[1] == 3 + 4


def test_concat_with_a_constant_over_channels():
    graph = Builder()
    hidden = graph.conv(graph.input((1, 3, 6, 3)), 3, 8, name="producer")
    joined = graph.node("Concat", hidden, graph.weight(1, 8, 2, 3), axis=2)
    check(graph.model(graph.conv(joined, 8, 4)), free=["producer"], units=8)


def test_concat_over_space_joins_channels():
    graph = Builder()
    x = graph.input()
    parts = [graph.conv(x, 3, 8, name=name) for name in ("left", "right")]
    joined = graph.node("Concat", *parts, axis=2)
    check(graph.model(graph.conv(joined, 8, 4)), free=["left", "right"], units=8)


def summed(graph, parts, channels):
    """Each part through a convolution of its own, then summed."""
    convolved = [graph.conv(part, width, 4) for part, width in zip(parts, channels, strict=True)]
    return graph.node("Sum", *convolved)


@pytest.mark.parametrize(
    ("opset", "sizes", "form"),
    [
        (17, (4, 4), "equal"),
        (17, (5, 3), "input"),
        (11, (5, 3), "attribute"),
        (11, (4, 4), "equal"),
        (18, (4, 4), "num_outputs"),
        (18, (3, 3, 2), "num_outputs"),
        (18, (2, 5, 1), "input"),
    ],
)
def test_split_counts_what_is_left_of_every_part(opset, sizes, form):
    graph = Builder(opset)
    inputs = [graph.conv(graph.input(), 3, 8, name="producer")]
    attributes = {"axis": 1}
    if form == "input":
        inputs.append(graph.constant(sizes))
    elif form == "attribute":
        attributes["split"] = list(sizes)
    elif form == "num_outputs":
        attributes["num_outputs"] = len(sizes)
    parts = graph.nodes("Split", inputs, len(sizes), **attributes)
    pruned = check(graph.model(summed(graph, parts, sizes)), free=["producer"], units=8, ratio=0.3)
    node = next(node for node in pruned.model.proto.graph.node if node.op_type == "Split")
    assert not any(attribute.name == "num_outputs" for attribute in node.attribute)


@pytest.mark.parametrize("op", ["Split", "Slice", "Gather"])
def test_every_part_keeps_a_channel(op):
    """However few channels are left, a part without any would be no tensor that a convolution takes."""
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    if op == "Split":
        parts = graph.nodes("Split", [hidden], 2, axis=1)
    elif op == "Slice":
        parts = [sliced(graph, hidden, 0, 4, 1), sliced(graph, hidden, 4, 8, 1)]
    else:
        picked = ([0, 2, 4, 6], [1, 3, 5, 7])
        parts = [graph.node("Gather", hidden, graph.constant(indices), axis=1) for indices in picked]
    check(graph.model(summed(graph, parts, (4, 4))), free=["producer"], ratio=0.9)


def test_split_over_space_passes_channels():
    def middle(graph, x):
        first, second = graph.nodes("Split", [x], 2, axis=2)
        return graph.node("Mul", first, second)

    check(between(middle), free=["producer"], units=8)


def test_split_and_gate():
    """GLU: halves multiply, so that they lose the same channels."""

    def middle(graph, x):
        value, gate = graph.nodes("Split", [x], 2, axis=1)
        return graph.node("Mul", value, graph.node("Sigmoid", gate))

    check(between(middle, channels=12, after=6), free=["producer"], units=6)


def sliced(graph, x, start, end, axis, step=None):
    if graph.opset < 10:
        return graph.node("Slice", x, starts=[start], ends=[end], axes=[axis])
    steps = [] if step is None else [graph.constant([step])]
    return graph.node("Slice", x, *(graph.constant([value]) for value in (start, end, axis)), *steps)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize(
    ("start", "end", "width"), [(0, 5, 5), (2, 7, 5), (3, INT_MAX, 5), (0, -2, 6), (-5, -1, 4), (-6, 100, 6)]
)
def test_slice_of_channels(opset, axis, start, end, width):
    def middle(graph, x):
        return sliced(graph, x, start, end, axis)

    check(between(middle, opset=opset, after=width), free=["producer"], units=8)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(("start", "end", "width"), [(0, -2, 6), (-5, 8, 5)])
def test_slice_counted_from_the_end_of_which_only_other_channels_go(opset, start, end, width):
    proto = between(lambda graph, x: sliced(graph, x, start, end, 1), opset=opset, after=width)
    model = load(proto)
    analysis = analyse(model, probe(model))
    for unit in range(8):
        kept = np.ones(analysis.classes.count, bool)
        kept[analysis.groups[0].classes[unit]] = False
        assert_equivalent(Pruned(analysis, kept, cut(analysis, kept)))


def test_slices_that_cover_all_channels():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    parts = [sliced(graph, hidden, 0, 3, 1), sliced(graph, hidden, 3, INT_MAX, 1, step=1)]
    check(graph.model(summed(graph, parts, (3, 5))), free=["producer"], units=8)


def test_slice_without_axes():
    def middle(graph, x):
        return graph.node("Slice", x, graph.constant([0, 2]), graph.constant([INT_MAX, 7]))

    check(between(middle, after=5), free=["producer"], units=8)


def test_slice_of_two_axes_at_once():
    def middle(graph, x):
        starts, ends, axes = ([2, 1], [5, INT_MAX], [2, 1])
        return graph.node("Slice", x, *(graph.constant(value) for value in (starts, ends, axes)))

    check(between(middle, after=7), free=["producer"], units=8)


@pytest.mark.parametrize(("start", "step"), [(0, 2), (1, 2), (3, 4)])
@pytest.mark.parametrize("end", [8, INT_MAX])
def test_slice_in_steps_takes_neighbours_together(start, end, step):
    def middle(graph, x):
        return sliced(graph, x, start, end, 1, step)

    check(between(middle, after=8 // step), free=["producer"], units=8 // step)


@pytest.mark.parametrize(("start", "end", "step", "width"), [(0, 7, 2, 4), (0, 8, 3, 3), (2, 8, 2, 3), (7, -9, -1, 8)])
def test_slice_in_steps_stays(start, end, step, width):
    def middle(graph, x):
        return sliced(graph, x, start, end, 1, step)

    check(between(middle, after=width), frozen={"producer": "takes every n-th of them"})


def test_slice_of_space_in_steps_passes_channels():
    check(between(lambda graph, x: sliced(graph, x, 0, INT_MAX, 2, 2)), free=["producer"], units=8)


def padded(graph, x, pads, *more, **attributes):
    if graph.opset < 11:
        return graph.node("Pad", x, pads=pads, **attributes)
    return graph.node("Pad", x, graph.constant(pads), *more, **attributes)


@pytest.mark.parametrize("opset", [2, 9, 17])
def test_pad_of_space_passes_channels(opset):
    graph = Builder(opset)
    hidden = graph.conv(graph.input(), 3, 8, name="producer")
    hidden = padded(graph, hidden, [0, 0, 1, 2, 0, 0, 2, 1])
    check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_of_space_in_other_modes_passes_channels(mode):
    def middle(graph, x):
        return padded(graph, x, [0, 0, 1, 2, 0, 0, 2, 1], mode=mode)

    check(between(middle), free=["producer"], units=8)


@pytest.mark.parametrize(("opset", "value"), [(9, False), (17, False), (17, True)])
def test_pad_of_channels_with_zeros(opset, value):
    def middle(graph, x):
        more = [graph.constant(0.0)] if value else []
        return padded(graph, x, [0, 2, 0, 0, 0, 3, 0, 0], *more)

    pruned = check(between(middle, opset=opset, after=13), free=["producer"], units=8)
    assert pruned.analysis.kept_shape("consumer", pruned.kept)[1] == 4
    assert pruned.shape(pruned.group("producer").consumers[0].weight.name)[1] == 2 + 4 + 3


def test_a_shortcut_that_pads_channels():
    """ResNet's option A: the padded zeros lose the channels that the other branch loses."""
    graph = Builder()
    stem = graph.node("Relu", graph.conv(graph.input(), 3, 6, name="stem"))
    wide = graph.conv(stem, 6, 10, name="wide")
    shortcut = padded(graph, stem, [0, 2, 0, 0, 0, 2, 0, 0])
    hidden = graph.node("Relu", graph.node("Add", wide, shortcut))
    pruned = check(graph.model(graph.conv(hidden, 10, 4)), free=["stem", "wide"], units=10)
    assert pruned.group("stem") is pruned.group("wide")


@pytest.mark.parametrize("kind", ["value", "value as attribute", "reflect", "crop"])
def test_pad_of_channels_with_anything_else_stays(kind):
    def middle(graph, x):
        if kind == "crop":
            return padded(graph, x, [0, -1, 0, 0, 0, -1, 0, 0])
        pads = [0, 1, 0, 0, 0, 1, 0, 0]
        if kind == "value":
            return padded(graph, x, pads, graph.constant(2.0))
        return padded(graph, x, pads, **({"value": 2.0} if kind == "value as attribute" else {"mode": kind}))

    opset = 9 if kind == "value as attribute" else 17
    proto = between(middle, opset=opset, after=6 if kind == "crop" else 10)
    check(proto, frozen={"producer": "pads them with other than zeros"})


def test_pad_of_chosen_axes():
    def middle(graph, x):
        return graph.node("Pad", x, graph.constant([1, 2, 1, 0]), "", graph.constant([-1, 1]))

    check(between(middle, opset=18, after=10), free=["producer"], units=8)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("indices", [[7, 6, 5, 4, 3, 2, 1, 0], [0, 3, 3, -1, 5], list(range(8))])
def test_gather_of_channels(indices, dtype):
    def middle(graph, x):
        return graph.node("Gather", x, graph.constant(indices, dtype), axis=1)

    check(between(middle, after=len(indices)), free=["producer"], units=8, ratio=0.3)


def test_two_gathers_with_one_vector_of_indices():
    graph = Builder()
    x, indices = graph.input(), graph.constant([4, 2, 0, 1])
    parts = [graph.node("Gather", graph.conv(x, 3, 8, name=n), indices, axis=1) for n in ("one", "two")]
    check(graph.model(*(graph.conv(part, 4, 2) for part in parts)), free=["one", "two"], ratio=0.3)


@pytest.mark.parametrize("indices", [3, [[0, 1], [2, 3]]])
def test_gather_of_single_channels_keeps_all(indices):
    def middle(graph, x):
        picked = graph.node("Gather", x, graph.constant(indices), axis=1)
        return graph.node("Reshape", picked, graph.constant([0, -1, 6, 3]))

    after = np.asarray(indices).size
    check(between(middle, after=after), frozen={"producer": "picks single ones of them"})


def test_gather_over_space_passes_channels():
    graph = Builder()
    hidden = graph.matmul(graph.input(("N", 5, 6)), 6, 8, name="producer")
    hidden = graph.node("Gather", hidden, graph.constant(0), axis=1)
    check(graph.model(graph.gemm(hidden, 8, 3)), free=["producer"], units=8)


def embedded(graph):
    tokens = graph.input(("N", 5), "tokens", 7)
    return graph.node("Gather", graph.weight(10, 8, name="table"), tokens, name="embedding")


def test_gather_from_a_table_makes_channels():
    graph = Builder()
    pruned = check(graph.model(graph.matmul(embedded(graph), 8, 3)), free=["embedding"], units=8)
    assert pruned.shape("table") == (10, 4)


def test_two_embeddings_are_coupled():
    graph = Builder()
    hidden = graph.node("Add", embedded(graph), graph.weight(5, 8, name="positions"))
    pruned = check(graph.model(graph.matmul(hidden, 8, 3)), free=["embedding"], units=8)
    assert pruned.shape("positions") == (5, 4)


@pytest.mark.parametrize("shape", [(1, 8, 6, 3), (2, 1, 1, 1, 1), (8, 1, 3)])
def test_expand_to_a_constant_shape(shape):
    graph = Builder()
    hidden = graph.conv(graph.input((1, 3, 1, 3)), 3, 8, (1, 1), name="producer")
    hidden = graph.node("Expand", hidden, graph.constant(shape))
    if len(shape) == 5:
        hidden = graph.node("Reshape", hidden, graph.constant([2, 8, 1, 3]))
    check(graph.model(graph.conv(hidden, 8, 4)), free=["producer"], units=8)


def test_expand_of_a_single_channel():
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 1, name="producer")
    hidden = graph.node("Expand", hidden, graph.constant([1, 8, 1, 1]))
    check(graph.model(graph.conv(hidden, 8, 4)), frozen={"producer": "repeats them"})


def test_tile():
    def middle(graph, x):
        return graph.node("Tile", x, graph.constant([1, 3, 2, 1]))

    check(between(middle, after=24), free=["producer"], units=8)


@pytest.mark.parametrize("opset", [10, 13])
@pytest.mark.parametrize("form", ["scales", "sizes"])
def test_resize(opset, form):
    def middle(graph, x):
        if opset == 10:
            return graph.node("Resize", x, graph.constant([1.0, 1.0, 2.0, 2.0]))
        if form == "scales":
            return graph.node("Resize", x, "", graph.constant([1.0, 1.0, 2.0, 2.0]))
        return graph.node("Resize", x, "", "", graph.constant([2, 8, 12, 6]))

    graph = Builder(opset)
    hidden = graph.conv(graph.input((2, 3, 6, 3)), 3, 8, name="producer")
    check(graph.model(graph.conv(middle(graph, hidden), 8, 4)), free=["producer"], units=8)


def test_upsample():
    def middle(graph, x):
        return graph.node("Upsample", x, graph.constant([1.0, 1.0, 2.0, 2.0]))

    check(between(middle, opset=9), free=["producer"], units=8)


@pytest.mark.parametrize("axes", [[1, 2, 3], [-2, -1], [-3, -2, -1]])
def test_resize_of_chosen_axes(axes):
    def middle(graph, x):
        return graph.node("Resize", x, "", "", graph.constant([8, 12, 6][-len(axes) :]), axes=axes)

    check(between(middle, opset=18), free=["producer"], units=8)


def test_resize_of_channels_keeps_them():
    def middle(graph, x):
        return graph.node("Resize", x, "", graph.constant([1.0, 2.0, 1.0, 1.0]))

    check(between(middle, opset=13, after=16), frozen={"producer": "resizes them"})
