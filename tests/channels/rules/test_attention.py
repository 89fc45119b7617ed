import pytest
from graphs import Builder, check

HEADS, SIZE, LENGTH = 4, 3, 5
WIDTH = HEADS * SIZE
MICROSOFT = "com.microsoft"


def projections(graph, x, widths=(WIDTH, WIDTH, WIDTH)):
    return [graph.matmul(x, 6, width, name=name) for name, width in zip("qkv", widths, strict=True)]


@pytest.mark.parametrize("bias_shape", [None, (1, HEADS, LENGTH, LENGTH), (1, 1, LENGTH, LENGTH)])
@pytest.mark.parametrize("sizes", [None, [WIDTH, WIDTH, 2 * WIDTH]])
def test_attention_with_weights(sizes, bias_shape):
    graph = Builder()
    x = graph.matmul(graph.input((2, LENGTH, 6)), 6, 8, name="producer")
    total = sum(sizes or [WIDTH] * 3)
    inputs = [x, graph.weight(8, total, name="weights"), graph.weight(total)]
    if bias_shape:
        inputs += ["", "", graph.weight(*bias_shape)]
    attributes = {"qkv_hidden_sizes": sizes} if sizes else {}
    x = graph.node("Attention", *inputs, num_heads=HEADS, domain=MICROSOFT, name="attention", **attributes)
    proto = graph.model(graph.matmul(x, total - 2 * WIDTH, 3))
    pruned = check(proto, free=["attention", "producer"], units=HEADS, ratio=0.5)
    assert pruned.shape("weights") == (4, total // 2)


@pytest.mark.parametrize("values", [WIDTH, 2 * WIDTH])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(values, bias):
    graph = Builder()
    parts = projections(graph, graph.input((2, LENGTH, 6)), (WIDTH, WIDTH, values))
    extra = [graph.weight(2 * WIDTH + values)] if bias else []
    x = graph.node("MultiHeadAttention", *parts, *extra, num_heads=HEADS, domain=MICROSOFT)
    check(graph.model(graph.matmul(x, values, 3)), free=["q", "k", "v"], units=HEADS)


@pytest.mark.parametrize(("queries", "shared"), [(4, 4), (4, 2)])
def test_attention_of_three_axes(queries, shared):
    graph = Builder(opset=23, ir_version=10)
    parts = projections(graph, graph.input((2, LENGTH, 6)), (queries * SIZE, shared * SIZE, shared * SIZE))
    x = graph.node("Attention", *parts, q_num_heads=queries, kv_num_heads=shared)
    check(graph.model(graph.matmul(x, queries * SIZE, 3)), free=["q", "k", "v"], units=shared)


@pytest.mark.parametrize(("scale", "units"), [(None, 2), (0.5, 6)])
def test_attention_of_four_axes(scale, units):
    """Two heads of six channels each: without a given scale, the operator takes it from the number of channels."""
    graph = Builder(opset=23, ir_version=10)
    parts = []
    for part in projections(graph, graph.input((2, LENGTH, 6))):
        shaped = graph.node("Reshape", part, graph.constant([0, LENGTH, 2, 6]))
        parts.append(graph.node("Transpose", shaped, perm=[0, 2, 1, 3]))
    mask = graph.weight(1, 2, LENGTH, LENGTH)
    attributes = {} if scale is None else {"scale": scale}
    x = graph.node("Attention", *parts, mask, name="attention", **attributes)
    x = graph.node("Reshape", graph.node("Transpose", x, perm=[0, 2, 1, 3]), graph.constant([0, 0, -1]))
    check(graph.model(graph.matmul(x, WIDTH, 3)), free=["q", "k", "v"], units=units)


@pytest.mark.parametrize(
    ("op", "domain"), [("Attention", ""), ("Attention", MICROSOFT), ("MultiHeadAttention", MICROSOFT)]
)
def test_attention_with_a_cache_keeps_its_heads(op, domain):
    graph = Builder(opset=23, ir_version=10)
    if (op, domain) == ("Attention", MICROSOFT):
        x = graph.matmul(graph.input((2, LENGTH, 6)), 6, 8, name="q")
        inputs = [x, graph.weight(8, 3 * WIDTH), graph.weight(3 * WIDTH)]
        attributes = {"num_heads": HEADS, "domain": domain}
        made = graph.nodes(op, inputs, 2, **attributes)
    else:
        parts = projections(graph, graph.input((2, LENGTH, 6)))
        counts = {"num_heads": HEADS} if domain else {"q_num_heads": HEADS, "kv_num_heads": HEADS}
        made = graph.nodes(op, parts, 3, domain=domain, **counts)
    check(graph.model(graph.matmul(made[0], WIDTH, 3), *made[1:]), frozen={"q": "keeps a cache"})


@pytest.mark.parametrize("domain", ["", MICROSOFT])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary_embedding(rank, domain):
    graph = Builder(opset=23, ir_version=10)
    x = graph.matmul(graph.input((2, LENGTH, 6)), 6, HEADS * 4, name="producer")
    if rank == 4:
        shaped = graph.node("Reshape", x, graph.constant([0, LENGTH, HEADS, 4]))
        x = graph.node("Transpose", shaped, perm=[0, 2, 1, 3])
    places = graph.constant([list(range(LENGTH))] * 2)
    caches = [graph.weight(8, 2), graph.weight(8, 2)]
    inputs = [x, places, *caches] if domain else [x, *caches, places]
    x = graph.node("RotaryEmbedding", *inputs, num_heads=HEADS, domain=domain)
    if rank == 4:
        x = graph.node("Reshape", graph.node("Transpose", x, perm=[0, 2, 1, 3]), graph.constant([0, 0, -1]))
    check(graph.model(graph.matmul(x, HEADS * 4, 3)), free=["producer"], units=HEADS)
