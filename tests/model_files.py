"""Small model files for tests: one Gemm whose weight lies inline or in a file of its own.

>>> proto = gemm_model()
>>> path = write_external(tmp_path, "w.bin", offset=64, length=48)  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def external_model(folder: Path) -> Path:
    """A model in a new folder below `folder` with W in w.bin, 64 bytes in."""
    folder = folder / "external"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(64) + W.tobytes())
    return write_external(folder, offset=64, length=48)
