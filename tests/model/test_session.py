"""onnxruntime sessions: weights of every kind, batches, providers, versions and operators that it does not know."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper
from uniform import compress

from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.evaluation.certificates.certify import certify
from lbyl_onnx.model import providers, session
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import feed_batches, open_session, run, run_batches, static_batches
from lbyl_onnx.model.writing import save
from lbyl_onnx.options import RunOptions


def model_of(nodes, inputs, outputs, weights=None, domains=("",)):
    def values(items):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in items]

    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), initializers)
    opsets = [helper.make_opsetid(domain, 1 if domain else 17) for domain in domains]
    return load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def linear(batch="N", features=64, seed=0):
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((features, 10)).astype(np.float32),
        "b": rng.standard_normal(10).astype(np.float32),
    }
    return model_of(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        [("x", TensorProto.FLOAT, [batch, features])],
        [("y", TensorProto.FLOAT, [batch, 10])],
        weights,
    )


def samples(count, features=64):
    return np.random.default_rng(1).standard_normal((count, features)).astype(np.float32)


@pytest.mark.parametrize("optimise", [True, False])
def test_session_computes_with_large_and_small_weights(optimise):
    model, x = linear(), samples(5)
    assert model.weights["w"].nbytes >= session.INLINE_BYTES > model.weights["b"].nbytes
    (y,) = run(open_session(model, optimise=optimise), {"x": x})
    np.testing.assert_allclose(y, x @ model.weights["w"] + model.weights["b"], rtol=1e-5, atol=1e-5)


def test_large_weights_are_handed_over_without_data_and_the_model_is_left_alone():
    model = linear()
    before = model.proto.SerializeToString()
    proto, large = session._split_weights(model)
    assert set(large) == {"w"} and np.shares_memory(large["w"][0], model.weights["w"])
    assert {i.name: len(i.raw_data) for i in proto.graph.initializer} == {"w": 0, "b": 40}
    assert model.proto.SerializeToString() == before


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.bool_, ml_dtypes.bfloat16])
def test_weights_of_every_type_keep_their_values(dtype):
    weight = (np.arange(2048) % 7).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of([helper.make_node("Identity", ["w"], ["y"])], [], [("y", kind, [2048])], {"w": weight})
    (y,) = run(open_session(model), {})
    assert y.dtype == weight.dtype
    np.testing.assert_array_equal(y.astype(np.float64), weight.astype(np.float64))


def test_bfloat16_inputs_and_outputs():
    cast = [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    outputs = [("y", TensorProto.FLOAT, [2, 3]), ("z", TensorProto.BFLOAT16, [2, 3])]
    model = model_of(cast, [("x", TensorProto.BFLOAT16, [2, 3])], outputs)
    x = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    y, z = run(open_session(model), {"x": x})
    assert z.dtype == x.dtype
    np.testing.assert_array_equal(y, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(z.astype(np.float32), y)


@pytest.mark.parametrize("optimise", [True, False])
def test_a_model_with_a_large_weight_that_nothing_reads_opens(optimise):
    """onnxruntime forgets it before it looks for it."""
    model, x = linear(), samples(5)
    (expected,) = run(open_session(model), {"x": x})
    model.add("unread", samples(64))
    np.testing.assert_array_equal(run(open_session(model, optimise=optimise), {"x": x})[0], expected)


def test_a_large_weight_may_be_an_output():
    model = linear()
    model.proto.graph.output.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 10]))
    np.testing.assert_array_equal(run(open_session(model), {"x": samples(1)})[1], model.weights["w"])


def test_weights_used_inside_a_subgraph_and_listed_as_inputs():
    weight = samples(1, 1024)[0]
    branches = {
        key: helper.make_graph(
            [helper.make_node(operator, ["x", "w"], [key])],
            key,
            [],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, [1024])],
        )
        for key, operator in {"then_branch": "Add", "else_branch": "Mul"}.items()
    }
    model = model_of(
        [helper.make_node("If", ["c"], ["y"], **branches)],
        [
            ("c", TensorProto.BOOL, []),
            ("x", TensorProto.FLOAT, [1024]),
            ("w", TensorProto.FLOAT, [1024]),
        ],
        [("y", TensorProto.FLOAT, [1024])],
        {"w": weight},
    )
    x = samples(1, 1024)[0]
    session = open_session(model)
    np.testing.assert_array_equal(run(session, {"c": np.array(True), "x": x})[0], x + weight)
    np.testing.assert_array_equal(run(session, {"c": np.array(False), "x": x})[0], x * weight)


def test_refused_model_and_failed_run_give_one_line(capfd):
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    weights = {"w": np.ones((3, 4, 5), np.float32)}
    broken = model_of([node], [("x", TensorProto.FLOAT, [2, 3])], [("y", TensorProto.FLOAT, [2, 5])], weights)
    with pytest.raises(ModelError, match="onnxruntime refuses the model") as refused:
        open_session(broken)
    with pytest.raises(ModelError, match=r"cannot run the model.*dimension") as failed:
        run(open_session(linear()), {"x": samples(2, 63)})
    for error in (refused, failed):
        text = str(error.value)
        assert "\n" not in text and "ONNXRuntimeError" not in text and ".cc" not in text
    assert capfd.readouterr() == ("", "")


def test_reason_is_short():
    long = "[ONNXRuntimeError] : 1 : FAIL : /src/core/a.cc:12 first\n  second " + "x" * 400
    assert session.reason(Exception(long)).startswith("first second xx")
    assert len(session.reason(Exception(long))) == 300


def test_selected_outputs_in_the_order_asked_for():
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["z"])]
    kind = (TensorProto.FLOAT, [1])
    model = model_of(nodes, [("x", *kind)], [("y", *kind), ("z", *kind)])
    x = np.array([-2], np.float32)
    assert [float(value[0]) for value in run(open_session(model), {"x": x}, ["z", "y"])] == [2, 2]
    assert [float(value[0]) for value in run(open_session(model), {"x": -x}, ["z", "y"])] == [2, -2]


def provider_for(name):
    return providers.resolve(RunOptions(name)).provider


def test_providers_without_cuda(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    providers._cuda_starts.cache_clear()
    assert provider_for("auto") == provider_for("cpu") == "cpu"
    with pytest.raises(UsageError, match="install onnxruntime-gpu in place of onnxruntime"):
        open_session(linear(), RunOptions("cuda"))
    with pytest.raises(UsageError, match="'tpu' is unknown"):
        provider_for("tpu")
    providers._cuda_starts.cache_clear()


def test_a_cuda_provider_that_silently_falls_back_is_not_accepted(monkeypatch):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("CUDA is there")
    opened = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda proto, options, providers: opened(proto, options))
    providers._cuda_starts.cache_clear()
    assert provider_for("auto") == "cpu"
    with pytest.raises(UsageError, match="does not start"):
        provider_for("cuda")
    providers._cuda_starts.cache_clear()


def test_dynamic_batches_are_cut_at_the_limit_and_joined_again():
    session, x = open_session(linear()), samples(10)
    feeds = list(feed_batches(session, {"x": x}, limit=4))
    assert [len(feed["x"]) for feed in feeds] == [4, 4, 2]
    assert all(np.shares_memory(feed["x"], x) for feed in feeds)
    (joined,) = run_batches(session, {"x": x}, limit=4)
    np.testing.assert_allclose(joined, run(session, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_static_batches_drop_the_remainder():
    session = open_session(linear(batch=3))
    assert static_batches(session) == {"x": 3}
    assert run_batches(session, {"x": samples(10)})[0].shape == (9, 10)
    with pytest.raises(UsageError, match="'x' has 2 samples, but one run of the model takes 3"):
        run_batches(session, {"x": samples(2)})


def test_inputs_with_their_own_first_axis_and_scalars():
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "table"], ["y"]),
    ]
    model = model_of(
        nodes,
        [
            ("x", TensorProto.FLOAT, [2, 5]),
            ("table", TensorProto.FLOAT, [5, 4]),
            ("scale", TensorProto.FLOAT, []),
        ],
        [("y", TensorProto.FLOAT, [2, 4])],
    )
    x, table, scale = samples(7, 5), samples(15, 4), np.array(3, np.float32)
    feeds = list(feed_batches(open_session(model), {"x": x, "table": table, "scale": scale}))
    assert [(feed["x"].shape, feed["table"].shape) for feed in feeds] == [((2, 5), (5, 4))] * 3
    np.testing.assert_array_equal(feeds[2]["table"], table[10:15])
    (y,) = run_batches(open_session(model), {"x": x, "table": table, "scale": scale})
    np.testing.assert_allclose(y[2:4], 3 * x[2:4] @ table[5:10], rtol=1e-4, atol=1e-5)


def test_weights_may_be_memory_mapped_and_outlive_the_model(tmp_path):
    model, x = linear(features=2048), samples(1, 2048)
    expected = x @ model.weights["w"] + model.weights["b"]
    onnx.save(
        model.to_proto(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    mapped = load(tmp_path / "m.onnx")
    assert isinstance(mapped.weights["w"], np.memmap) or isinstance(mapped.weights["w"].base, np.memmap)
    session = open_session(mapped)
    del mapped
    np.testing.assert_allclose(run(session, {"x": x})[0], expected, rtol=1e-3, atol=1e-3)


# ---- newer versions of the format


def newest_ir():
    """A version that this onnx writes and this onnxruntime does not read yet."""
    proto = linear().to_proto()
    proto.ir_version = onnx.IR_VERSION
    try:
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        assert "IR version" in str(error)
        return onnx.IR_VERSION
    pytest.skip("onnxruntime reads the newest IR version")


def test_a_model_of_a_newer_ir_version_than_onnxruntime_reads_is_run():
    model, x = linear(), samples(3)
    model.proto.ir_version = 1000
    (y,) = run(open_session(model), {"x": x})
    np.testing.assert_allclose(y, x @ model.weights["w"] + model.weights["b"], rtol=1e-5, atol=1e-5)
    assert model.proto.ir_version == 1000


def test_a_model_of_a_newer_ir_version_is_saved_with_its_own(tmp_path):
    model = linear()
    model.proto.ir_version = newest_ir()
    run(open_session(model), {"x": samples(1)})
    save(model, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").ir_version == onnx.IR_VERSION
    assert load(tmp_path / "out.onnx").proto.ir_version == onnx.IR_VERSION


def test_a_model_of_a_newer_ir_version_is_compressed():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    proto = graph.model(graph.conv(hidden, 8, 4, name="consumer"))
    proto.ir_version = newest_ir()
    result = compress(proto, 0.5)
    assert result.model.ir_version == onnx.IR_VERSION
    assert result.report.groups[0].units_after == 4 and result.report.validation is not None


# ---- operators of others


def twisted(domain, op="Twist"):
    """An operator of another domain, with two outputs, between two products."""
    weights = {name: np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) for name in "ab"}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["hidden"]),
        helper.make_node(op, ["hidden"], ["negative", "positive"], "twist", domain=domain),
        helper.make_node("MatMul", ["positive", "b"], ["y"]),
    ]
    entry, result = (("x", TensorProto.FLOAT, ["N", 4]), ("y", TensorProto.FLOAT, ["N", 4]))
    return model_of(nodes, [entry], [result], weights, ("", domain))


def test_an_operator_of_a_foreign_domain_is_named():
    expected = (
        r"^model: node 'twist' is a Twist of the operator domain 'my\.ops', which onnxruntime does not have; .*"
        r"--custom-ops-library PATH, custom_ops_library=PATH"
    )
    for attempt in (open_session, compress):
        with pytest.raises(ModelError, match=expected) as caught:
            attempt(twisted("my.ops"))
        assert "\n" not in str(caught.value)


def test_a_foreign_operator_in_a_subgraph_is_named():
    branch = helper.make_graph(
        [helper.make_node("Twist", ["x"], ["inner"], "twist", domain="my.ops")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])],
    )
    model = model_of(
        [helper.make_node("If", ["c"], ["y"], "if", then_branch=branch, else_branch=branch)],
        [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        domains=("", "my.ops"),
    )
    with pytest.raises(ModelError, match=r"node 'twist' is a Twist of the operator domain 'my\.ops'"):
        open_session(model)


def test_a_library_that_does_not_help_is_not_asked_for_again(extensions):
    with pytest.raises(ModelError, match=r"onnxruntime refuses the model: .*Twist"):
        open_session(twisted("my.ops"), RunOptions(custom_ops_library=extensions))


def test_a_model_of_dynamic_sizes_that_needs_a_library_is_certified(extensions):
    proto = twisted("ai.onnx.contrib", "NegPos").to_proto()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    found = certify(proto, proto, samples=20, provider="cpu", custom_ops_library=extensions)
    assert found.samples == 20


@pytest.fixture
def extensions():
    return pytest.importorskip("onnxruntime_extensions").get_library_path()


def test_operators_of_a_registered_library_run(extensions):
    model, x = twisted("ai.onnx.contrib", "NegPos"), samples(5, 4)
    with pytest.raises(ModelError, match=r"a NegPos of the operator domain 'ai\.onnx\.contrib'.*custom_ops_library"):
        open_session(model)
    (y,) = run(open_session(model, RunOptions(custom_ops_library=extensions)), {"x": x})
    expected = np.maximum(x @ model.weights["a"], 0) @ model.weights["b"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_needs_a_library_is_compressed(extensions):
    """The operator itself has no rule: what goes into it stays whole, other layers are compressed."""
    proto = twisted("ai.onnx.contrib", "NegPos").to_proto()
    weights = {"c": np.ones((4, 8)), "d": np.ones((8, 4))}
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    proto.graph.node.append(helper.make_node("MatMul", ["y", "c"], ["wide"], "free"))
    proto.graph.node.append(helper.make_node("MatMul", ["wide", "d"], ["z"], "last"))
    proto.graph.output[0].name = "z"
    groups = compress(proto, 0.5, custom_ops_library=extensions).report.groups
    assert {group.name: (group.units_before, group.units_after) for group in groups}["free"] == (8, 4)
    assert "no rule" in next(group.frozen_reason for group in groups if group.name == "hidden")


@pytest.mark.parametrize("name", ["missing.so", "text.so"])
def test_a_library_that_is_none(tmp_path, name):
    (tmp_path / "text.so").write_text("no library")
    library = Path(tmp_path, name)
    reason = "is no file" if name == "missing.so" else "cannot be registered"
    with pytest.raises(UsageError, match=rf"^custom_ops_library '.*{name}' {reason}") as caught:
        open_session(linear(), RunOptions(custom_ops_library=str(library)))
    assert "\n" not in str(caught.value)
