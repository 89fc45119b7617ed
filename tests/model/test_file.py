"""Model files: what is read, what is refused and why, and that writing is all or nothing."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.model import file as model_file
from lbyl_onnx.model.file import DTYPES, load_model, save_model

W = np.arange(12, dtype=np.float32).reshape(4, 3)
B = np.array([1.5, -2, 0, np.inf], np.float32)


def gemm_model(weights=None, nodes=None, **graph_fields) -> onnx.ModelProto:
    """y = Gemm(x, W, B) with x of shape (N, 3), with metadata, a dynamic axis and declared weight shapes."""
    weights = [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")] if weights is None else weights
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W", "B"], ["y"], "gemm", transB=1)] if nodes is None else nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        weights,
        doc_string="a graph",
        **graph_fields,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"author": "someone"})
    return model


def constant_node(name: str, **attribute) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name, **attribute)


def external_tensor(name: str, shape, location: str, data_type=TensorProto.FLOAT, **entries) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=data_type, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_external(folder: Path, location: str = "w.bin", **entries) -> Path:
    """gemm_model whose W lies in `location`, written to `folder`/in.onnx without the data file."""
    path = folder / "in.onnx"
    weights = [external_tensor("W", [4, 3], location, **entries), numpy_helper.from_array(B, "B")]
    path.write_bytes(gemm_model(weights).SerializeToString())
    return path


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with W in w.bin, 64 bytes in."""
    folder = tmp_path / "external"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(64) + W.tobytes())
    return write_external(folder, offset=64, length=48)


def refusal(source) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model: " if isinstance(source, onnx.ModelProto) else f"{source}: ")
    return message


# ---- reading


def test_weights_leave_the_graph(tmp_path):
    path = tmp_path / "in.onnx"
    onnx.save(gemm_model(), path)
    model = load_model(path)
    assert model.path == path and model.external == {}
    np.testing.assert_array_equal(model.weights["W"], W)
    np.testing.assert_array_equal(model.weights["B"], B)  # infinite values are legitimate (masks)
    assert [list(t.dims) for t in model.proto.graph.initializer] == [[4, 3], [4]]
    assert not any(t.raw_data or t.float_data for t in model.proto.graph.initializer)
    assert abs(model.bytes - path.stat().st_size) < 32


def test_a_proto_is_read_and_left_alone():
    proto = gemm_model()
    before = proto.SerializeToString()
    model = load_model(proto)
    assert model.path is None
    assert proto.SerializeToString() == before == model.to_proto().SerializeToString()


@pytest.mark.parametrize("data_type", sorted(DTYPES), ids=lambda value: str(DTYPES[value]))
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_element_type(data_type, raw):
    dtype = DTYPES[data_type]
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    tensor = TensorProto(name="extra", dims=[2, 2], data_type=data_type)
    fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
    fields |= {"uint32": "uint64_data", "uint64": "uint64_data"}
    if raw:
        tensor.raw_data = values.tobytes()
    elif dtype.kind == "c":
        parts = values.reshape(-1).view(values.real.dtype)
        getattr(tensor, fields[parts.dtype.name]).extend(parts.tolist())
    elif dtype.name in fields:
        getattr(tensor, fields[dtype.name]).extend(values.reshape(-1).tolist())
    else:
        bits = values.reshape(-1).view(f"u{dtype.itemsize}")
        tensor.int32_data.extend(bits.astype(np.int32).tolist())
    proto = gemm_model()
    proto.graph.initializer.append(tensor)
    model = load_model(proto)
    assert model.weights["extra"].dtype == dtype
    np.testing.assert_array_equal(model.weights["extra"].view(np.uint8), values.view(np.uint8))
    assert not model.weights["extra"].flags.writeable
    assert model.to_proto().graph.initializer[2].raw_data == values.tobytes()


def test_negative_integers_in_typed_fields():
    proto = gemm_model()
    proto.graph.initializer.append(helper.make_tensor("i8", TensorProto.INT8, [2], [-1, 5]))
    proto.graph.initializer.append(helper.make_tensor("i32", TensorProto.INT32, [2], [-7, 5]))
    weights = load_model(proto).weights
    assert weights["i8"].tolist() == [-1, 5] and weights["i32"].tolist() == [-7, 5]


def test_packed_text_and_sparse_constants_stay_in_the_graph():
    proto = gemm_model()
    packed = TensorProto(name="int4", dims=[3], data_type=TensorProto.INT4, raw_data=b"\x21\x03")
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"word"])
    values, indices = helper.make_tensor("sparse", 1, [1], [2.0]), helper.make_tensor("i", 7, [1], [3])
    proto.graph.initializer.extend([packed, text])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    model = load_model(proto)
    assert set(model.weights) == {"W", "B"}
    assert model.to_proto().SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize(
    "attribute, expected",
    [
        ({"value": numpy_helper.from_array(W)}, W),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_constant_nodes_are_weights(attribute, expected):
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", **attribute))
    model = load_model(proto)
    assert model.weights["c"].dtype == expected.dtype
    np.testing.assert_array_equal(model.weights["c"], expected)
    assert model.to_proto().SerializeToString() == proto.SerializeToString()


def test_text_constant_node_is_no_weight():
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value_string="word"))
    assert set(load_model(proto).weights) == {"W", "B"}


def test_control_flow_alone_is_a_model():
    branches = {
        f"{name}_branch": helper.make_graph(
            [constant_node(name, value=numpy_helper.from_array(W))],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, [4, 3])],
        )
        for name in ("then", "else")
    }
    proto = gemm_model([], [helper.make_node("If", ["c"], ["y"], **branches)])
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    assert load_model(proto).weights == {}


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 this is an archive", "not an ONNX file"),
        (gemm_model().SerializeToString()[:-40], "not an ONNX file or is truncated"),
        (onnx.ModelProto(producer_name="x").SerializeToString(), "is not an ONNX model"),
        (gemm_model(nodes=[]).SerializeToString(), "empty graph"),
    ],
    ids=["empty", "archive", "truncated", "no graph", "no nodes"],
)
def test_files_that_are_no_models(tmp_path, content, reason):
    path = tmp_path / "in.onnx"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.onnx")
    assert "is not a file" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "in.onnx"
    onnx.save(gemm_model(), path)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_damaged_bytes_never_escape_as_another_error():
    good = gemm_model().SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            proto = onnx.ModelProto.FromString(bytes(damaged))
        except Exception:
            continue
        try:
            outcomes.add(type(load_model(proto)))
        except ModelError as error:
            outcomes.add(type(error))
            assert "\n" not in str(error)
    assert outcomes == {model_file.Model, ModelError}


def test_invalid_structure():
    proto = gemm_model()
    proto.graph.node[0].input[0] = "nowhere"
    assert "not a valid ONNX model" in refusal(proto) and "nowhere" in refusal(proto)


def test_weight_with_too_little_data():
    proto = gemm_model()
    proto.graph.initializer[0].dims[0] = 5
    assert "'W' holds 48 bytes, its shape [5, 3] of float32 needs 60" in refusal(proto)


def test_duplicate_initializer():
    proto = gemm_model()
    proto.graph.initializer.append(numpy_helper.from_array(W, "W"))
    assert "'W' is defined more than once" in refusal(proto)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_nan_weights_at_any_depth_of_the_chunks(dtype, monkeypatch):
    monkeypatch.setattr(model_file, "NAN_CHUNK", 4)
    for index in (0, 5, 9):
        values = np.zeros((2, 5), dtype)
        values.flat[index] = np.nan
        tensor = TensorProto(name="bad", dims=[2, 5], raw_data=values.tobytes())
        tensor.data_type = {dtype_: key for key, dtype_ in DTYPES.items()}[np.dtype(dtype)]
        proto = gemm_model()
        proto.graph.initializer.append(tensor)
        assert "'bad' contains NaN" in refusal(proto)


def test_nan_in_a_constant_node():
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value_float=float("nan")))
    assert "'c' contains NaN" in refusal(proto)


def test_operator_domains():
    proto = gemm_model()
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    load_model(proto)
    proto.graph.node.append(helper.make_node("Twist", ["y"], ["t"], "twisted", domain="my.ops"))
    assert "node 'twisted' is a Twist of the operator domain 'my.ops'" in refusal(proto)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("my.ops", "Twist", ["a"], ["b"], body, opset))
    load_model(proto)


def test_unknown_domain_inside_a_subgraph():
    twist = helper.make_node("Twist", [], ["t"], "twisted", domain="my.ops")
    branch = helper.make_graph([twist], "b", [], [helper.make_tensor_value_info("t", 1, None)])
    proto = gemm_model([], [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)])
    assert "'twisted'" in refusal(proto)


def test_runtime_operators_of_the_standard_domain_are_left_to_onnxruntime():
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "B"], ["y"], axis=-1)
    assert "B" in load_model(gemm_model(nodes=[node])).weights


# ---- external data


def test_external_data_is_mapped(external):
    model = load_model(external)
    assert isinstance(model.weights["W"], np.memmap) and model.external == {"W": "w.bin"}
    np.testing.assert_array_equal(model.weights["W"], W)
    assert model.proto.graph.initializer[0].data_location == TensorProto.DEFAULT
    assert model.bytes > W.nbytes


def test_offset_and_length_are_optional(tmp_path):
    path = write_external(tmp_path)
    (tmp_path / "w.bin").write_bytes(W.tobytes() + b"more")
    np.testing.assert_array_equal(load_model(path).weights["W"], W)


def test_unaligned_external_data(tmp_path):
    path = write_external(tmp_path, offset=3, length=48)
    (tmp_path / "w.bin").write_bytes(b"abc" + W.tobytes())
    np.testing.assert_array_equal(load_model(path).weights["W"] + 0, W)


def test_external_tensors_of_attributes_become_inline(tmp_path):
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value=external_tensor("v", [4, 3], "c.bin")))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "c.bin").write_bytes(W.tobytes() + b"more")
    model = load_model(tmp_path / "in.onnx")
    np.testing.assert_array_equal(model.weights["c"], W)
    attribute = model.proto.graph.node[0].attribute[0].t
    assert attribute.raw_data == W.tobytes() and not attribute.external_data


def test_missing_external_data(tmp_path):
    assert "external data 'w.bin' of tensor 'W' is missing" in refusal(write_external(tmp_path))
    (tmp_path / "w.bin").mkdir()
    assert "is missing" in refusal(tmp_path / "in.onnx")


@pytest.mark.parametrize("entries", [{}, {"offset": 8}, {"offset": 64, "length": 48}, {"offset": -8}])
def test_external_data_too_short(tmp_path, entries):
    path = write_external(tmp_path, **entries)
    (tmp_path / "w.bin").write_bytes(W.tobytes()[: 40 if not entries else 48])
    assert "'w.bin' of tensor 'W' is too short" in refusal(path)
    (tmp_path / "w.bin").write_bytes(b"")
    assert "is too short" in refusal(path)


def test_external_entries_that_make_no_sense(tmp_path):
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    assert "not a number" in refusal(write_external(tmp_path, offset="one"))
    assert "holds 8 bytes" in refusal(write_external(tmp_path, length=8))
    assert "cannot be read" in refusal(write_external(tmp_path, "w\0.bin"))


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "{outside}", "C:\\w.bin", "link.bin", "sub/w.bin"])
def test_external_data_outside_the_folder_is_unsafe(tmp_path, location):
    outside = tmp_path / "w.bin"
    outside.write_bytes(W.tobytes())
    folder = tmp_path / "model"
    (folder / "real").mkdir(parents=True)
    (folder / "link.bin").symlink_to(outside)
    (folder / "sub").symlink_to(tmp_path)
    assert "refused as unsafe" in refusal(write_external(folder, location.format(outside=outside)))


def test_external_data_in_a_subfolder_and_behind_linked_models(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "data").write_bytes(W.tobytes())
    write_external(blobs, "w/data")
    (snapshot / "w").mkdir()
    (snapshot / "w" / "data").symlink_to(blobs / "data")
    (snapshot / "in.onnx").symlink_to(blobs / "in.onnx")
    np.testing.assert_array_equal(load_model(snapshot / "in.onnx").weights["W"], W)


def test_external_data_of_a_model_in_memory(external):
    proto = onnx.load(external, load_external_data=False)
    assert "give the model's path" in refusal(proto)


# ---- changing


def test_replace_an_initializer_that_is_declared_elsewhere():
    infos = [helper.make_tensor_value_info("W", 1, [4, 3]), helper.make_tensor_value_info("B", 1, [4])]
    proto = gemm_model(value_info=infos[1:])
    proto.graph.input.append(infos[0])
    model = load_model(proto)
    untouched = model.copy()
    model.replace("W", W[:2].astype(ml_dtypes.bfloat16))
    model.replace("B", B[:2].astype(np.float16))
    for info, shape, data_type in (
        (model.proto.graph.input[1], [2, 3], TensorProto.BFLOAT16),
        (model.proto.graph.value_info[0], [2], TensorProto.FLOAT16),
    ):
        assert [d.dim_value for d in info.type.tensor_type.shape.dim] == shape
        assert info.type.tensor_type.elem_type == data_type
    assert list(model.to_proto().graph.initializer[1].dims) == [2]
    assert model.to_proto().graph.initializer[1].raw_data == B[:2].astype(np.float16).tobytes()
    assert untouched.to_proto().SerializeToString() == proto.SerializeToString()


def test_replace_a_constant_node():
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value_floats=[1.0, 2.0, 3.0]))
    model = load_model(proto)
    model.replace("c", np.array([[4.0]], np.float64))
    np.testing.assert_array_equal(model.weights["c"], [[4.0]])
    node = model.to_proto().graph.node[0]
    assert [a.name for a in node.attribute] == ["value"]
    np.testing.assert_array_equal(numpy_helper.to_array(node.attribute[0].t), np.array([[4.0]]))
    onnx.checker.check_model(model.to_proto())


def test_replace_a_packed_initializer():
    proto = gemm_model()
    packed = TensorProto(name="int4", dims=[3], data_type=TensorProto.INT4, raw_data=b"\x21\x03")
    proto.graph.initializer.append(packed)
    model = load_model(proto)
    model.replace("int4", np.array([1, 2], np.int8))
    np.testing.assert_array_equal(numpy_helper.to_array(model.to_proto().graph.initializer[2]), [1, 2])


def test_replace_what_is_not_there():
    with pytest.raises(KeyError):
        load_model(gemm_model()).replace("x", W)


# ---- writing


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_but_the_weights_is_preserved(tmp_path):
    proto = gemm_model(value_info=[helper.make_tensor_value_info("B", 1, [4])])
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 17)
    proto.functions.append(helper.make_function("my.ops", "Twist", ["a"], ["b"], body, [opset]))
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    proto.training_info.add().algorithm.CopyFrom(proto.graph)
    proto.doc_string, proto.producer_name = "a model", "a producer"
    save_model(load_model(proto), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").SerializeToString() == proto.SerializeToString()
    assert list(files(tmp_path)) == ["out.onnx"]
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


@pytest.mark.parametrize("transposed", [False, True])
def test_external_stays_external(external, tmp_path, transposed):
    model = load_model(external)
    if transposed:
        model.replace("W", np.asfortranarray(W * 2))
    out = tmp_path / "out.onnx"
    save_model(model, out)
    stored = onnx.load(out, load_external_data=False).graph.initializer
    assert [t.data_location for t in stored] == [TensorProto.EXTERNAL, TensorProto.DEFAULT]
    assert {e.key: e.value for e in stored[0].external_data} == {
        "location": "out.onnx.data",
        "offset": "0",
        "length": "48",
    }
    onnx.checker.check_model(str(out), full_check=True)
    np.testing.assert_array_equal(load_model(out).weights["W"], W * (2 if transposed else 1))
    x = np.ones((2, 3), np.float32)
    result = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(result, x @ (W * (2 if transposed else 1)).T + B)


def test_packed_external_data_stays_external(tmp_path):
    proto = gemm_model()
    proto.graph.initializer.append(external_tensor("q", [6], "q.bin", TensorProto.INT4, length=3))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "q.bin").write_bytes(b"\x21\x43\x05")
    model = load_model(tmp_path / "in.onnx")
    assert "q" not in model.weights
    save_model(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"\x21\x43\x05"


def test_models_over_the_limit_become_external(tmp_path, monkeypatch):
    large = np.arange(600, dtype=np.float32)
    tensors = [numpy_helper.from_array(a, n) for n, a in (("W", W), ("B", B), ("L1", large), ("L2", large + 1))]
    model = load_model(gemm_model(tensors))
    save_model(model, tmp_path / "inline.onnx")
    assert list(files(tmp_path)) == ["inline.onnx"]
    monkeypatch.setattr(model_file, "INLINE_LIMIT", 3000)
    save_model(model, tmp_path / "out.onnx")
    stored = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    offsets = {t.name: {e.key: e.value for e in t.external_data}.get("offset") for t in stored}
    assert offsets == {"W": None, "B": None, "L1": "0", "L2": str(model_file.ALIGNMENT)}
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    loaded = onnx.load(tmp_path / "out.onnx").graph.initializer
    for tensor, expected in zip(loaded, (W, B, large, large + 1), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)


def test_targets_that_cannot_be_written(tmp_path):
    model = load_model(gemm_model())
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"precious")
    for target, reason in (
        (tmp_path / "no" / "out.onnx", "does not exist"),
        (tmp_path, "is a folder"),
        (taken, "exists already; choose another name or overwrite it"),
        (taken / "out.onnx", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            save_model(model, target)
        assert str(caught.value).startswith(f"{target}: ")
    assert files(tmp_path) == {"taken.onnx": b"precious"}
    save_model(model, taken, force=True)
    assert taken.read_bytes() == gemm_model().SerializeToString()


def test_folder_that_is_not_writable(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere but there
        folder = Path("/proc")
    with pytest.raises(UsageError, match="cannot be written"):
        save_model(load_model(gemm_model()), folder / "out.onnx")


def test_the_data_file_of_the_target_is_protected_too(external, tmp_path):
    model = load_model(external)
    data = tmp_path / "out.onnx.data"
    data.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save_model(model, tmp_path / "out.onnx", force=True)
    data.rmdir()
    data.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"out.onnx.data: exists already"):
        save_model(model, tmp_path / "out.onnx")
    assert data.read_bytes() == b"precious" and not (tmp_path / "out.onnx").exists()


def test_the_input_is_overwritten_only_with_force(tmp_path):
    path = tmp_path / "in.onnx"
    (tmp_path / "in.onnx.data").write_bytes(W.tobytes())
    write_external(tmp_path, "in.onnx.data")
    before = files(tmp_path)
    model = load_model(path)
    with pytest.raises(UsageError, match=r"is the input model; .*--force"):
        save_model(model, path)
    assert files(tmp_path) == before
    model.replace("B", B + 1)
    save_model(model, path, force=True)
    assert set(files(tmp_path)) == set(before)
    again = load_model(path)
    np.testing.assert_array_equal(again.weights["W"], W)
    np.testing.assert_array_equal(again.weights["B"], B + 1)
    np.testing.assert_array_equal(model.weights["W"], W)


def test_the_weights_of_the_input_are_never_overwritten_by_another_model(tmp_path):
    path = write_external(tmp_path, "out.onnx.data")
    (tmp_path / "out.onnx.data").write_bytes(W.tobytes())
    before = files(tmp_path)
    for name in ("out.onnx", "out.onnx.data"):
        with pytest.raises(UsageError, match="holds the weights of the input model"):
            save_model(load_model(path), tmp_path / name, force=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", ["data", "model", "interrupt"])
def test_failure_leaves_everything_as_it_was(external, tmp_path, monkeypatch, existing, step):
    out = tmp_path / "out.onnx"
    model = load_model(external)
    if existing:
        save_model(model, out)
    before = files(tmp_path)
    rename, failing = os.replace, ".onnx.data" if step == "data" else ".onnx"

    def fails(source, target):
        if str(target) == f"{tmp_path}/out{failing}" and not str(source).endswith(".previous"):
            raise KeyboardInterrupt if step == "interrupt" else OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    model.replace("W", W + 1)
    with pytest.raises(KeyboardInterrupt if step == "interrupt" else UsageError):
        save_model(model, out, force=True)
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".lbyl*"))


def test_an_invalid_result_is_not_published(tmp_path):
    model = load_model(gemm_model())
    model.proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        save_model(model, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_written_files_are_readable_for_others(tmp_path):
    save_model(load_model(gemm_model()), tmp_path / "out.onnx")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode
