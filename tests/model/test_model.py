"""A model in memory: what it tells of itself, and weights that change."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from model_files import B, W, constant_node, external_model, external_tensor, gemm_model
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.model.reading import load
from lbyl_onnx.model.writing import save

# ---- what it tells


def test_files_and_their_size_count_external_data(tmp_path):
    path = external_model(tmp_path)
    model = load(path)
    data = path.parent / "w.bin"
    assert model.files == (path, data)
    assert model.bytes_on_disk == path.stat().st_size + data.stat().st_size


def test_a_file_of_several_tensors_counts_once(tmp_path):
    tensors = [external_tensor("W", [4, 3], "w.bin", length=48), external_tensor("B", [4], "w.bin", offset=48)]
    (tmp_path / "in.onnx").write_bytes(gemm_model(tensors).SerializeToString())
    (tmp_path / "w.bin").write_bytes(W.tobytes() + B.tobytes())
    model = load(tmp_path / "in.onnx")
    assert model.files == (tmp_path / "in.onnx", tmp_path / "w.bin")
    assert model.bytes_on_disk == (tmp_path / "in.onnx").stat().st_size + 64


def test_files_without_external_data(tmp_path):
    onnx.save(gemm_model(), tmp_path / "in.onnx")
    model = load(tmp_path / "in.onnx")
    assert model.files == (tmp_path / "in.onnx",)
    assert model.bytes_on_disk == (tmp_path / "in.onnx").stat().st_size


def test_a_model_in_memory_has_no_files_and_the_size_of_what_would_be_written(tmp_path):
    model = load(gemm_model())
    save(model, tmp_path / "out.onnx")
    assert model.files == () and model.bytes_on_disk == model.bytes
    assert abs(model.bytes_on_disk - (tmp_path / "out.onnx").stat().st_size) < 32


def test_a_model_is_shown_in_one_short_line(tmp_path):
    large = numpy_helper.from_array(np.zeros(10**6, np.float32), "large")
    proto = gemm_model([numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B"), large])
    assert repr(load(proto)).startswith("<Model the model: 1 node, 3 constants, 4,000,")
    path = tmp_path / "a_network_with_quite_a_long_name_224x224.onnx"
    onnx.save(proto, path)
    for model in (load(proto), load(path)):
        assert len(repr(model)) <= 120 and "\n" not in repr(model) and model.name in repr(model)


# ---- changing


def test_replace_an_initializer_that_is_declared_elsewhere():
    infos = [helper.make_tensor_value_info("W", 1, [4, 3]), helper.make_tensor_value_info("B", 1, [4])]
    proto = gemm_model(value_info=infos[1:])
    proto.graph.input.append(infos[0])
    model = load(proto)
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
    model = load(proto)
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
    model = load(proto)
    model.replace("int4", np.array([1, 2], np.int8))
    np.testing.assert_array_equal(numpy_helper.to_array(model.to_proto().graph.initializer[2]), [1, 2])


def test_replace_what_is_not_there():
    with pytest.raises(KeyError):
        load(gemm_model()).replace("x", W)
