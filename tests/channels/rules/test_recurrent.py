import pytest
from graphs import Builder, check

from lbyl_onnx.channels.rules.recurrent import GATES

INPUTS, HIDDEN = 8, 6


def recurrent(graph, op, x, directions=1, initial=None, **attributes):
    """The hidden state after every step, (L, D, B, H); `initial`: the states to start from."""
    gates = GATES[op]
    weights = [
        graph.weight(directions, gates * HIDDEN, INPUTS, name=f"{op}_w"),
        graph.weight(directions, gates * HIDDEN, HIDDEN, name=f"{op}_r"),
        graph.weight(directions, 2 * gates * HIDDEN),
    ]
    states = [] if initial is None else ["", *([initial] * (2 if op == "LSTM" else 1))]
    if attributes.pop("peepholes", False):
        states = [*states, *[""] * (4 - len(states) - 1), graph.weight(directions, 3 * HIDDEN)]
    direction = "bidirectional" if directions == 2 else "forward"
    return graph.node(op, x, *weights, *states, hidden_size=HIDDEN, direction=direction, name="layer", **attributes)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", sorted(GATES))
def test_hidden_units_go(op, directions):
    graph = Builder()
    x = graph.matmul(graph.input((5, "N", 4)), 4, INPUTS, name="producer")
    hidden = graph.node("Transpose", recurrent(graph, op, x, directions), perm=[0, 2, 1, 3])
    hidden = graph.node("Reshape", hidden, graph.constant([0, 0, -1]))
    proto = graph.model(graph.matmul(hidden, directions * HIDDEN, 3))
    pruned = check(proto, free=["layer", "producer"], units=HIDDEN, ratio=0.5)
    assert pruned.group("layer").coupled
    assert pruned.shape(f"{op}_w") == (directions, GATES[op] * 3, 4)
    assert pruned.shape(f"{op}_r") == (directions, GATES[op] * 3, 3)


@pytest.mark.parametrize("form", ["constant", "ConstantOfShape", "Expand"])
@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_initial_states_of_zeros(op, form):
    graph = Builder()
    x = graph.matmul(graph.input((5, "N" if form != "constant" else 2, 4)), 4, INPUTS, name="producer")
    if form == "constant":
        initial = graph.weight(1, 2, HIDDEN)
    else:
        batch = graph.node("Gather", graph.node("Shape", x), graph.constant([1]))
        shape = graph.node("Concat", graph.constant([1]), batch, graph.constant([HIDDEN]), axis=0)
        filled = [shape] if form == "ConstantOfShape" else [graph.constant(0.0), shape]
        initial = graph.node(form, *filled)
    hidden = graph.node("Squeeze", recurrent(graph, op, x, initial=initial), graph.constant([1]))
    check(graph.model(graph.matmul(hidden, HIDDEN, 3)), free=["layer", "producer"], units=HIDDEN)


def test_peepholes():
    graph = Builder()
    x = graph.matmul(graph.input((5, "N", 4)), 4, INPUTS, name="producer")
    hidden = graph.node("Squeeze", recurrent(graph, "LSTM", x, peepholes=True), graph.constant([1]))
    check(graph.model(graph.matmul(hidden, HIDDEN, 3)), free=["layer", "producer"], units=HIDDEN)


def test_two_layers():
    graph = Builder()
    x = graph.matmul(graph.input((5, "N", 4)), 4, INPUTS, name="producer")
    first = graph.node("Squeeze", recurrent(graph, "LSTM", x), graph.constant([1]))
    second = graph.node("LSTM", first, graph.weight(1, 16, HIDDEN), graph.weight(1, 16, 4), hidden_size=4, name="top")
    last = graph.node("Squeeze", second, graph.constant([1]))
    check(graph.model(graph.matmul(last, 4, 3)), free=["layer", "top"], units=HIDDEN)


def test_a_final_state_that_is_an_output_keeps_hidden_units():
    graph = Builder()
    x = graph.matmul(graph.input((5, "N", 4)), 4, INPUTS, name="producer")
    weights = graph.weight(1, 16, INPUTS), graph.weight(1, 16, 4)
    _, final = graph.nodes("LSTM", [x, *weights], 2, hidden_size=4, name="layer")
    check(graph.model(final), free=["producer"], frozen={"layer": "output 'layer_1' of the model"})
