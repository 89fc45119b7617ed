"""A model run stretch by stretch: the values of one plain run, weights that change ahead, statistics on the way."""

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.calibration import staged_run
from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.calibration.staged_run import CalibratedRun, StagedRun
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run
from lbyl_onnx.options import RunOptions

CPU = RunOptions("cpu")


def batches_of(*sizes, shape=(3, 6, 5), name="x", seed=0):
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal((size, *shape)).astype(np.float32)} for size in sizes]


def plain(model, batches, names):
    """Values of tensors from one run of the whole model for each batch: a list for each name."""
    exposed = model.copy()
    del exposed.proto.graph.output[:]
    exposed.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(exposed)
    return [list(values) for values in zip(*(run(session, batch) for batch in batches), strict=True)]


def made(model):
    return [name for node in model.proto.graph.node for name in node.output if name]


def assert_like_plain(model, batches, names=None):
    """Every tensor (or those named), reached one after the other, has the values of a plain run."""
    names = names or [name for name in made(model) if name not in model.weights]
    stepwise_run = StagedRun(model, batches, CPU)
    try:
        for name, expected in zip(names, plain(model, batches, names), strict=True):
            stepwise_run.reach(name)
            found = list(stepwise_run.values(name))
            assert len(found) == len(expected) == len(batches)
            for left, right in zip(found, expected, strict=True):
                assert left.dtype == right.dtype and left.shape == right.shape
                np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=name)
        stepwise_run.finish()
    finally:
        stepwise_run.close()


def residual():
    """Two branches that meet again, and a read of the input at the end."""
    graph = Builder()
    x = graph.input()
    first = graph.node("Relu", graph.batch_norm(graph.conv(x, 3, 4, name="first"), 4))
    inner = graph.node("Relu", graph.conv(first, 4, 6, name="second"))
    second = graph.conv(inner, 6, 4, name="third")
    joined = graph.node("Concat", graph.node("Add", first, second), x, axis=1)
    return load(graph.model(graph.conv(joined, 7, 2, name="last")))


def head():
    """A head whose Reshape target is computed from the input's shape; a Split with two outputs; a Constant node."""
    graph = Builder()
    x = graph.conv(graph.input(("N", 3, "H", "W")), 3, 4)
    pooled = graph.node("GlobalAveragePool", x)
    size = graph.node("Gather", graph.node("Shape", pooled), graph.constant([0]))
    target = graph.node("Concat", size, graph.constant([-1]), axis=0)
    flat = graph.node("Reshape", pooled, target)
    left, right = graph.nodes("Split", [flat, graph.constant([1, 3])], 2, axis=1)
    factor = graph.node("Constant", value=numpy_helper.from_array(np.float32(2)))
    joined = graph.node("Concat", right, graph.node("Mul", left, factor), axis=1)
    return load(graph.model(graph.gemm(joined, 4, 3)))


def with_subgraph():
    """An If whose branches read a weight, an activation and the input of the main graph."""
    graph = Builder()
    x = graph.input(("N", 4))
    hidden = graph.node("Relu", graph.gemm(x, 4, 4))
    weight = graph.constant(graph.rng.standard_normal((4, 4)), name="captured")
    positive = graph.node("Greater", graph.node("ReduceSum", hidden, keepdims=0), graph.constant(0.0))

    def branch(name, *nodes):
        return helper.make_graph(list(nodes), name, [], [onnx.ValueInfoProto(name=f"{name}_out")])

    then = branch("then", helper.make_node("MatMul", [hidden, weight], ["then_out"]))
    otherwise = branch("else", helper.make_node("Add", [hidden, x], ["else_out"]))
    chosen = graph.node("If", positive, then_branch=then, else_branch=otherwise)
    return load(graph.model(graph.gemm(chosen, 4, 2)))


def test_a_residual_network():
    model = residual()
    assert_like_plain(model, batches_of(2, 3, 1, shape=(3, 6, 3)))
    assert_like_plain(model, batches_of(4, shape=(3, 6, 3)), ["second", "third"])
    assert_like_plain(model, batches_of(4, shape=(3, 6, 3)), ["last"])


def test_shapes_computed_in_the_graph():
    assert_like_plain(head(), [*batches_of(2, 3), *batches_of(2, shape=(3, 4, 7))])


def test_subgraphs_see_weights_and_values_outside():
    model = with_subgraph()
    outer = [name for name in made(model) if name not in ("then_out", "else_out")]
    assert_like_plain(model, batches_of(2, 3, shape=(4,)), outer)


def test_a_static_batch():
    graph = Builder()
    x = graph.conv(graph.input((1, 3, 6, 3)), 3, 4)
    flat = graph.node("Reshape", x, graph.constant([1, 72]))
    assert_like_plain(load(graph.model(graph.gemm(flat, 72, 2))), batches_of(1, 1, 1, shape=(3, 6, 3)))


def test_scalars_several_inputs_and_other_types():
    graph = Builder()
    ids = graph.input(("N", 5), "ids", TensorProto.INT64)
    scale = graph.input((), "scale")
    hidden = graph.node("Mul", graph.node("Gather", graph.weight(10, 4), ids), scale)
    total = graph.node("ReduceMax", hidden, keepdims=0)
    mask = graph.node("Less", hidden, total)
    hidden = graph.node("Where", mask, graph.matmul(hidden, 4, 4), scale)
    half = graph.node("Cast", graph.matmul(hidden, 4, 2), to=TensorProto.FLOAT16)
    model = load(graph.model(graph.node("Relu", half)))
    rng = np.random.default_rng(0)
    batches = [{"ids": rng.integers(0, 10, (2, 5)), "scale": np.array(value, np.float32)} for value in (0.5, 2.0)]
    assert_like_plain(model, batches)


@pytest.mark.parametrize("limit", [0, staged_run.MEMORY_LIMIT])
def test_text_and_bfloat16_across_stretches(limit, monkeypatch):
    """Text has no place in a file, and a file does not tell of bfloat16."""
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", limit)
    graph = Builder()
    x = graph.input(("N", 3, 6, 3))
    text = graph.node("Cast", x, to=TensorProto.STRING)
    brain = graph.node("Cast", x, to=TensorProto.BFLOAT16)
    hidden = graph.conv(x, 3, 3)
    others = [graph.node("Cast", each, to=TensorProto.FLOAT) for each in (text, brain)]
    model = load(graph.model(graph.node("Sum", hidden, *others)))
    names = [name for name in made(model) if name not in (text, brain, *model.weights)]
    assert_like_plain(model, batches_of(2, 3, shape=(3, 6, 3)), names)


def test_a_tensor_is_approached_but_not_made():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 6, 3)), 3, 4))
    last = graph.conv(hidden, 4, 2, name="last")
    model, batches = load(graph.model(last)), batches_of(2, shape=(3, 6, 3))
    run = StagedRun(model, batches, CPU)
    try:
        run.approach(last)
        (found,) = run.values(hidden)
        np.testing.assert_allclose(found, plain(model, batches, [hidden])[0][0], atol=1e-5)
        with pytest.raises(KeyError):
            list(run.values(last))
    finally:
        run.close()


def test_sequences_across_stretches():
    graph = Builder()
    x = graph.conv(graph.input(), 3, 4)
    parts = graph.node("SplitToSequence", x, axis=1)
    inner = graph.conv(graph.node("Relu", x), 4, 4, name="inner")
    first = graph.node("SequenceAt", parts, graph.constant(1))
    joined = graph.node("ConcatFromSequence", parts, axis=1)
    model = load(graph.model(graph.node("Sum", inner, first, joined)))
    names = [name for name in made(model) if name not in model.weights and name != parts]
    assert_like_plain(model, batches_of(2, 3, shape=(3, 6, 3)), names)


def test_sparse_weights():
    graph = Builder()
    x = graph.gemm(graph.input(("N", 4)), 4, 4)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [2.0, -1.0])
    indices = helper.make_tensor("sparse_indices", TensorProto.INT64, [2], [1, 14])
    proto = graph.model(graph.gemm(graph.node("MatMul", x, graph.weight(4, 4, name="dense")), 4, 2))
    del proto.graph.initializer[[tensor.name for tensor in proto.graph.initializer].index("dense")]
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    node = next(node for node in proto.graph.node if "dense" in node.input)
    node.input[1] = "sparse"
    assert_like_plain(load(proto), batches_of(2, shape=(4,)))


def test_half_precision_models():
    graph = Builder()
    x = graph.input(("N", 3, 6, 3), kind=TensorProto.FLOAT16)
    weight = graph.constant(graph.rng.standard_normal((4, 3, 3, 3)), np.float16)
    hidden = graph.node("Relu", graph.node("Conv", x, weight))
    model = load(graph.model(graph.node("GlobalAveragePool", hidden)))
    batches = [{"x": batch["x"].astype(np.float16)} for batch in batches_of(2, 2, shape=(3, 6, 3))]
    stepwise_run = StagedRun(model, batches, CPU)
    stepwise_run.reach(hidden)
    for found, expected in zip(stepwise_run.values(hidden), plain(model, batches, [hidden])[0], strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected, atol=0.02)
    stepwise_run.close()


# ---- memory


def spilled(stepwise_run):
    return sum(isinstance(value, np.memmap) for batch in stepwise_run._values for value in batch.values())


@pytest.mark.parametrize("model", [residual, head, with_subgraph])
def test_values_in_files_are_the_same(model, monkeypatch):
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", 0)
    model = model()
    shape = {4: (3, 6, 3), 2: (4,)}[len(model.proto.graph.input[0].type.tensor_type.shape.dim)]
    assert_like_plain(model, batches_of(2, 3, shape=shape), [n for n in made(model) if n not in model.weights])


def test_files_hold_what_exceeds_the_limit_and_go_at_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(staged_run.tempfile, "tempdir", str(tmp_path))
    model, batches = residual(), batches_of(4, 4, 4, shape=(3, 6, 3))
    given = sum(batch["x"].nbytes for batch in batches)
    one_value = 4 * 4 * 6 * 3 * 4
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", given + one_value)
    stepwise_run = StagedRun(model, batches, CPU)
    stepwise_run.reach("first")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert spilled(stepwise_run) == len(files) == 2
    stepwise_run.reach("last")
    assert not {path.name for path in tmp_path.rglob("*.npy")} & {path.name for path in files}
    stepwise_run.close()
    assert not list(tmp_path.iterdir())


def test_nothing_is_spilled_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(staged_run.tempfile, "tempdir", str(tmp_path))
    stepwise_run = StagedRun(residual(), batches_of(4, shape=(3, 6, 3)), CPU)
    stepwise_run.reach("last")
    assert spilled(stepwise_run) == 0 and not list(tmp_path.rglob("*.npy"))
    stepwise_run.close()


def test_values_are_forgotten_once_nothing_reads_them(monkeypatch):
    model = residual()
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", 0)
    stepwise_run = StagedRun(model, batches_of(2, shape=(3, 6, 3)), CPU)
    for name in made(model):
        stepwise_run.reach(name)
    (batch,) = stepwise_run._values
    assert list(batch) == ["last"]
    stepwise_run.finish()
    stepwise_run.close()


def test_what_is_given_stays(tmp_path, monkeypatch):
    """Arrays mapped from the user's own file are no spilled values: their file is not removed."""
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", 0)
    (batch,) = batches_of(2, shape=(3, 6, 3))
    np.save(tmp_path / "mine.npy", batch["x"])
    mapped = np.load(tmp_path / "mine.npy", mmap_mode="r")
    stepwise_run = StagedRun(residual(), [{"x": mapped}], CPU)
    stepwise_run.reach("last")
    stepwise_run.update("last", np.negative)
    stepwise_run.finish()
    stepwise_run.close()
    np.testing.assert_array_equal(np.load(tmp_path / "mine.npy"), batch["x"])


# ---- changes on the way


def test_weights_changed_ahead_take_effect():
    model, batches = residual(), batches_of(2, 2, shape=(3, 6, 3))
    changed = model.copy()
    stepwise_run = StagedRun(changed, batches, CPU)
    stepwise_run.reach("second")
    weight = next(node.input[1] for node in changed.proto.graph.node if node.output[0] == "third")
    changed.replace(weight, 3 * changed.weights[weight])
    expected = plain(changed, batches, ["last"])[0]
    stepwise_run.reach("last")
    for found, right, before in zip(
        stepwise_run.values("last"), expected, plain(model, batches, ["last"])[0], strict=True
    ):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
        assert np.abs(found - before).max() > 0.1
    stepwise_run.close()


@pytest.mark.parametrize("limit", [0, staged_run.MEMORY_LIMIT])
def test_values_changed_on_the_way_take_effect(limit, monkeypatch):
    monkeypatch.setattr(staged_run, "MEMORY_LIMIT", limit)
    graph = Builder()
    hidden = graph.conv(graph.input(), 3, 4, name="first")
    model = load(graph.model(graph.node("Relu", hidden)))
    batches = batches_of(2, 3, shape=(3, 6, 3))
    stepwise_run = StagedRun(model, batches, CPU)
    stepwise_run.reach("first")
    stepwise_run.update("first", lambda value: 2 * value + 1)
    last = made(model)[-1]
    stepwise_run.reach(last)
    for found, expected in zip(stepwise_run.values(last), plain(model, batches, ["first"])[0], strict=True):
        np.testing.assert_allclose(found, np.maximum(2 * expected + 1, 0), rtol=1e-5, atol=1e-5)
    stepwise_run.close()


def test_stops_are_called_once_in_order_before_their_node():
    model = residual()
    nodes = [node.output[0] for node in model.proto.graph.node]
    calls = []

    def before(index):
        calls.append((index, [np.asarray(v) for v in stepwise_run.values(model.proto.graph.node[index].input[0])]))

    stops = {nodes.index("third"), nodes.index("second"), 0}
    batches = batches_of(2, 1, shape=(3, 6, 3))
    stepwise_run = StagedRun(model, batches, CPU, stops, before)
    stepwise_run.reach("second")
    assert [index for index, _ in calls] == sorted(stops)[:2]
    stepwise_run.reach("second")
    stepwise_run.finish()
    assert [index for index, _ in calls] == sorted(stops)
    read = [model.proto.graph.node[index].input[0] for index, _ in calls[1:]]
    for (_, found), expected in zip(calls[1:], plain(model, batches, read), strict=True):
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    stepwise_run.close()


# ---- BatchNormalization


def normalised(shared=False, identity=False):
    """Conv → BN → Relu → Conv → BN, both in one model; `shared`: the BNs read the same four vectors."""
    graph = Builder()
    vectors = [graph.positive(4) for _ in range(4)]
    if identity:
        vectors = [graph.node("Identity", name) for name in vectors]
    x = graph.conv(graph.input(), 3, 4, name="first")
    x = graph.node("BatchNormalization", x, *vectors, name="bn1")
    x = graph.conv(graph.node("Relu", x), 4, 4, name="second")
    own = vectors if shared else [graph.positive(4) for _ in range(4)]
    return load(graph.model(graph.node("BatchNormalization", x, *own, name="bn2")))


@pytest.mark.parametrize(
    "options", [{}, {"shared": True}, {"identity": True}, {"shared": True, "identity": True}], ids=str
)
def test_synthetic_samples_are_normalised_by_their_own_statistics(options):
    model = normalised(**options)
    before = model.to_proto().SerializeToString(deterministic=True)
    batches = batches_of(5, 2, shape=(3, 6, 3))
    calibrated = CalibratedRun(model, Calibration(batches, (0,) * len(batches), True, "made up"), CPU)
    for conv, name in (("first", "bn1"), ("second", "bn2")):
        node = next(node for node in model.proto.graph.node if node.output[0] == name)
        gamma, beta = (dict(zip(node.input, _vectors(model, node), strict=False))[slot] for slot in node.input[1:3])
        calibrated.run.reach(conv)
        values = np.concatenate(list(calibrated.run.values(conv))).astype(np.float64)
        calibrated.run.reach(name)
        found = np.concatenate(list(calibrated.run.values(name))).astype(np.float64)
        mean, variance = values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))
        np.testing.assert_allclose(calibrated.statistics[name][0], mean, atol=1e-5)
        np.testing.assert_allclose(calibrated.statistics[name][1], variance, rtol=1e-4)
        np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), beta, atol=1e-3)
        np.testing.assert_allclose(found.std(axis=(0, 2, 3)), np.abs(gamma), rtol=1e-3)
    calibrated.run.close()
    assert model.to_proto().SerializeToString(deterministic=True) == before


def test_statistics_beyond_half_precision_end_at_its_range():
    graph = Builder()
    x = graph.input(("N", 2, 4, 4), kind=TensorProto.FLOAT16)
    vectors = [graph.constant(np.ones(2), np.float16) for _ in range(4)]
    model = load(graph.model(graph.node("BatchNormalization", x, *vectors, name="bn")))
    values = np.random.default_rng(0).standard_normal((8, 2, 4, 4)) * np.array([1, 2000]).reshape(2, 1, 1)
    calibrated = CalibratedRun(model, Calibration([{"x": values.astype(np.float16)}], (0,), True, ""), CPU)
    calibrated.run.reach("bn")
    calibrated.run.close()
    assert calibrated.normalised == {"x"} and calibrated.statistics["bn"].variance[1] > 1e6
    variance = calibrated.model.weights[calibrated.model.proto.graph.node[0].input[4]]
    assert variance[1] == np.finfo(np.float16).max and variance[0] < 2


def _vectors(model, node):
    """Values of all inputs of a node; those that are no constants (None) too."""
    makers = {other.output[0]: other for other in model.proto.graph.node}
    return [
        model.weights.get(makers[n].input[0] if n in makers and makers[n].op_type == "Identity" else n)
        for n in node.input
    ]


def test_real_samples_use_the_running_statistics():
    model, batches = normalised(), batches_of(3, 2, shape=(3, 6, 3))
    calibrated = CalibratedRun(model, Calibration(batches, (0,) * len(batches), False, "given"), CPU)
    calibrated.run.reach("bn2")
    for found, expected in zip(calibrated.run.values("bn2"), plain(model, batches, ["bn2"])[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert calibrated.statistics == {}
    calibrated.run.close()


def test_batch_normalisation_of_vectors_and_of_channels_that_do_not_vary():
    graph = Builder()
    weight = graph.constant(np.concatenate([np.zeros((1, 6)), graph.rng.standard_normal((3, 6))]))
    hidden = graph.node("Gemm", graph.input(("N", 6)), weight, graph.positive(4), transB=1, name="first")
    model = load(graph.model(graph.batch_norm(hidden, 4)))
    calibrated = CalibratedRun(model, Calibration(batches_of(64, shape=(6,)), (0,), True, ""), CPU)
    output = model.proto.graph.output[0].name
    calibrated.run.reach(output)
    (found,) = calibrated.run.values(output)
    beta = model.weights[model.proto.graph.node[-1].input[2]]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.mean(axis=0)[1:], beta[1:], atol=1e-3)
    np.testing.assert_allclose(found[:, 0], beta[0], atol=0.05)
    calibrated.run.close()


@pytest.mark.parametrize("front", [1, 2])
def test_batches_that_lag_behind_catch_up(front):
    """Only the front batches go through every stop; the others give a plain run's values once they are level."""
    graph = Builder(seed=5)
    stem = graph.node("Relu", graph.conv(graph.input(("N", 3, 6, 5)), 3, 4))
    hidden = graph.node("Relu", graph.conv(stem, 4, 4))
    model = load(graph.model(graph.node("Add", stem, graph.node("Sigmoid", hidden))))
    batches = batches_of(4, 4, 2)
    names = [name for name in made(model) if name not in model.weights]
    lagging_run = StagedRun(model, batches, CPU, front=front)
    try:
        for index, (name, expected) in enumerate(zip(names, plain(model, batches, names), strict=True)):
            lagging = index % 3 != 2
            lagging_run.reach(name, lagging=lagging)
            found = list(lagging_run.values(name))
            assert len(found) == lagging_run.level == (front if lagging else len(batches))
            for left, right in zip(found, expected, strict=False):
                np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    finally:
        lagging_run.close()
