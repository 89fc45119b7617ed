"""Reading models: what is read, what is refused and why."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from model_files import B, W, constant_node, external_model, external_tensor, gemm_model, write_external
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.model import reading
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.tensors import DTYPES


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with W in w.bin, 64 bytes in."""
    return external_model(tmp_path)


def refusal(source) -> str:
    with pytest.raises(ModelError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model: " if isinstance(source, bytes | onnx.ModelProto) else f"{source}: ")
    return message


def test_weights_leave_the_graph(tmp_path):
    path = tmp_path / "in.onnx"
    onnx.save(gemm_model(), path)
    model = load(path)
    assert model.path == path and model.external == {}
    np.testing.assert_array_equal(model.weights["W"], W)
    np.testing.assert_array_equal(model.weights["B"], B)  # infinite values are legitimate (masks)
    assert [list(t.dims) for t in model.proto.graph.initializer] == [[4, 3], [4]]
    assert not any(t.raw_data or t.float_data for t in model.proto.graph.initializer)
    assert abs(model.bytes - path.stat().st_size) < 32


def test_a_proto_is_read_and_left_alone():
    proto = gemm_model()
    before = proto.SerializeToString()
    model = load(proto)
    assert model.path is None
    assert proto.SerializeToString() == before == model.to_proto().SerializeToString()


def test_the_bytes_of_a_file_are_read():
    content = gemm_model().SerializeToString()
    model = load(content)
    assert model.path is None and model.external == {}
    np.testing.assert_array_equal(model.weights["W"], W)
    assert model.to_proto().SerializeToString() == content


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is an archive", gemm_model().SerializeToString()[:-40]])
def test_bytes_that_are_no_model(content):
    assert "the file is empty" in refusal(content) or "not an ONNX file or is truncated" in refusal(content)


def test_a_model_is_returned_as_it_is():
    model = load(gemm_model())
    assert load(model) is model


@pytest.mark.parametrize(("source", "kind"), [(None, "a NoneType"), (3, "an int"), ([], "a list"), (gemm_model, "a f")])
def test_a_source_of_another_type(source, kind):
    with pytest.raises(UsageError, match=rf"^model is {kind}.*; expected a path, the bytes of a file, a Mod") as caught:
        load(source)
    assert caught.value.parameter == "model"


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
    model = load(proto)
    assert model.weights["extra"].dtype == dtype
    np.testing.assert_array_equal(model.weights["extra"].view(np.uint8), values.view(np.uint8))
    assert not model.weights["extra"].flags.writeable
    assert model.to_proto().graph.initializer[2].raw_data == values.tobytes()


def test_negative_integers_in_typed_fields():
    proto = gemm_model()
    proto.graph.initializer.append(helper.make_tensor("i8", TensorProto.INT8, [2], [-1, 5]))
    proto.graph.initializer.append(helper.make_tensor("i32", TensorProto.INT32, [2], [-7, 5]))
    weights = load(proto).weights
    assert weights["i8"].tolist() == [-1, 5] and weights["i32"].tolist() == [-7, 5]


def test_packed_text_and_sparse_constants_stay_in_the_graph():
    proto = gemm_model()
    packed = TensorProto(name="int4", dims=[3], data_type=TensorProto.INT4, raw_data=b"\x21\x03")
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"word"])
    values, indices = helper.make_tensor("sparse", 1, [1], [2.0]), helper.make_tensor("i", 7, [1], [3])
    proto.graph.initializer.extend([packed, text])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    model = load(proto)
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
    model = load(proto)
    assert model.weights["c"].dtype == expected.dtype
    np.testing.assert_array_equal(model.weights["c"], expected)
    assert model.to_proto().SerializeToString() == proto.SerializeToString()


def test_text_constant_node_is_no_weight():
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value_string="word"))
    assert set(load(proto).weights) == {"W", "B"}


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
    assert load(proto).weights == {}


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
            outcomes.add(type(load(proto)))
        except ModelError as error:
            outcomes.add(type(error))
            assert "\n" not in str(error)
    assert outcomes == {Model, ModelError}


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
    monkeypatch.setattr(reading, "NAN_CHUNK", 4)
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


def test_operators_of_other_domains_are_left_to_onnxruntime_and_local_functions_are_inlined():
    proto = gemm_model()
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    proto.graph.node.append(helper.make_node("Twist", ["y"], ["t"], "twisted", domain="my.ops"))
    assert [node.op_type for node in load(proto).proto.graph.node] == ["Gemm", "Gelu", "Twist"]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("my.ops", "Twist", ["a"], ["b"], body, opset))
    assert [node.op_type for node in load(proto).proto.graph.node] == ["Gemm", "Gelu", "Relu"]


def test_runtime_operators_of_the_standard_domain_are_left_to_onnxruntime():
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "B"], ["y"], axis=-1)
    assert "B" in load(gemm_model(nodes=[node])).weights


# ---- external data


def test_external_data_is_mapped(external):
    model = load(external)
    assert isinstance(model.weights["W"], np.memmap) and model.external == {"W": "w.bin"}
    np.testing.assert_array_equal(model.weights["W"], W)
    assert model.proto.graph.initializer[0].data_location == TensorProto.DEFAULT
    assert model.bytes > W.nbytes


def test_offset_and_length_are_optional(tmp_path):
    path = write_external(tmp_path)
    (tmp_path / "w.bin").write_bytes(W.tobytes() + b"more")
    np.testing.assert_array_equal(load(path).weights["W"], W)


def test_unaligned_external_data(tmp_path):
    path = write_external(tmp_path, offset=3, length=48)
    (tmp_path / "w.bin").write_bytes(b"abc" + W.tobytes())
    np.testing.assert_array_equal(load(path).weights["W"] + 0, W)


def test_external_tensors_of_attributes_become_inline(tmp_path):
    proto = gemm_model()
    proto.graph.node.insert(0, constant_node("c", value=external_tensor("v", [4, 3], "c.bin")))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "c.bin").write_bytes(W.tobytes() + b"more")
    model = load(tmp_path / "in.onnx")
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
    np.testing.assert_array_equal(load(snapshot / "in.onnx").weights["W"], W)


def test_external_data_of_a_model_in_memory(external):
    proto = onnx.load(external, load_external_data=False)
    assert "give the model's path" in refusal(proto)
