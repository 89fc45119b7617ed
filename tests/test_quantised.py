"""Weights that are stored as integers or computed: counted, left alone with a reason, and compressed beforehand."""

import logging

import command_line
import ml_dtypes
import numpy as np
import onnx
import pytest
from command_line import DIGITS, assert_refused, files
from conftest import ROOT
from graphs import Builder
from onnx import TensorProto
from uniform import compress

import lbyl_onnx
from lbyl_onnx.errors import NothingToRemove

quantization = pytest.importorskip("onnxruntime.quantization")

lbyl = command_line.lbyl
CNN = ROOT / "models" / "digits_cnn_folded.onnx"
SENTENCE = "quantised integers; compress the float model first, quantise afterwards"


@pytest.fixture(autouse=True)
def quiet():
    """onnxruntime's quantiser logs advice to the root logger."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Digits(quantization.CalibrationDataReader):
    """Batches of digits, as onnxruntime's quantiser reads them."""

    def __init__(self):
        with np.load(DIGITS) as data:
            self._batches = iter([{"image": part} for part in np.array_split(data["image"][:200], 4)])

    def get_next(self):
        return next(self._batches, None)


def quantised(source, target, **options):
    """The model `source` with int8 weights behind DequantizeLinear."""
    layout = quantization.QuantFormat.QDQ
    quantization.quantize_static(source, target, Digits(), quant_format=layout, **options)
    return target


def stored_elements(path):
    """Elements of initializers by the kind of their type, scalars left out."""
    counts = {"float": 0, "int": 0}
    for tensor in onnx.load(path).graph.initializer:
        if tensor.dims:
            counts["float" if tensor.data_type == TensorProto.FLOAT else "int"] += int(np.prod(tensor.dims))
    return counts


def mlp():
    """x (N, 16) → MatMul → Relu → MatMul → Relu → MatMul → 4 values."""
    graph = Builder()
    x, width = graph.input(("N", 16)), 16
    for name, units in (("first", 32), ("second", 24)):
        x, width = graph.node("Relu", graph.matmul(x, width, units, name=name)), units
    return graph.model(graph.matmul(x, width, 4, name="last"))


# ---- integers


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_behind_dequantize_linear_are_refused(lbyl, tmp_path, per_channel):
    path = quantised(CNN, tmp_path / "q.onnx", per_channel=per_channel)
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    for options in ((), ("--restore", "none", "--criterion", "random", "--scope", "all")):
        assert_refused(lbyl("compress", path, tmp_path / "out.onnx", *options), 4, "q.onnx", SENTENCE)
    assert files(tmp_path) == ["q.onnx"]
    groups = lbyl_onnx.inspect(path).groups
    assert [group.units_before for group in groups] == [32, 64, 64, 64, 10]
    assert all(SENTENCE in group.frozen_reason for group in groups[:-1])
    assert (
        SENTENCE in lbyl("inspect", path)[1] and "0 removable with --scope chains, 0 with" in lbyl("inspect", path)[1]
    )


def test_parameters_in_integers_are_counted(tmp_path):
    path = quantised(CNN, tmp_path / "q.onnx")
    parameters = lbyl_onnx.inspect(CNN).input.parameters
    found = lbyl_onnx.inspect(path)
    assert stored_elements(path)["int"] == parameters
    assert parameters <= found.input.parameters <= 1.01 * parameters
    assert found.groups[0].parameters >= lbyl_onnx.inspect(CNN).groups[0].parameters
    assert found.input.bytes == path.stat().st_size < 0.4 * CNN.stat().st_size


def test_compressed_first_and_quantised_afterwards(tmp_path):
    small = tmp_path / "small.onnx"
    lbyl_onnx.save(compress(CNN, 0.3), small)
    path = quantised(small, tmp_path / "q.onnx")
    found = lbyl_onnx.validate(CNN, path, data=DIGITS)
    assert found.accuracy_before > 0.97 and found.accuracy_after > 0.97
    assert lbyl_onnx.inspect(path).input.parameters < 0.6 * lbyl_onnx.inspect(CNN).input.parameters
    assert path.stat().st_size < 0.25 * CNN.stat().st_size


def test_a_dynamically_quantised_mlp_is_left_alone(lbyl, tmp_path):
    onnx.save(mlp(), tmp_path / "float.onnx")
    path = tmp_path / "q.onnx"
    quantization.quantize_dynamic(tmp_path / "float.onnx", path, weight_type=quantization.QuantType.QInt8)
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= {node.op_type for node in onnx.load(path).graph.node}
    before = path.read_bytes()
    assert_refused(lbyl("compress", path, tmp_path / "out.onnx"), 4, SENTENCE)
    assert files(tmp_path) == ["float.onnx", "q.onnx"] and path.read_bytes() == before
    inspection, original = lbyl_onnx.inspect(path), lbyl_onnx.inspect(tmp_path / "float.onnx")
    assert all(SENTENCE in group.frozen_reason for group in inspection.groups if group.consumers)
    assert original.input.parameters <= inspection.input.parameters <= original.input.parameters + 20
    assert {group.frozen_reason for group in original.groups if group.consumers} == {None}


def test_operators_that_compute_in_integers_are_refused():
    """As onnxruntime's quantiser makes them with QuantFormat.QOperator."""
    graph = Builder()
    scaled = graph.constant(0.1), graph.constant(0, np.uint8)
    weight = graph.constant(graph.rng.integers(0, 9, (8, 8)), np.uint8), *scaled
    x = graph.node("QuantizeLinear", graph.input(("N", 8)), *scaled)
    hidden = graph.node("QLinearMatMul", x, *scaled, *weight, *scaled)
    bias = graph.constant(np.zeros(8), np.int32)
    last = graph.node("QGemm", hidden, *scaled, *weight, bias, *scaled, domain="com.microsoft")
    proto = graph.model(graph.node("DequantizeLinear", last, *scaled))
    with pytest.raises(NothingToRemove, match=f"the weights of its QGemm and QLinearMatMul nodes are {SENTENCE}$"):
        compress(proto, 0.5)


# ---- weights that are computed


def behind(weights, last=True):
    """Conv "first" → Relu → Conv "last", with what `weights` makes of an array for the weight of one of them."""
    graph = Builder()
    shapes = {"first": (8, 3, 3, 3), "last": (4, 8, 3, 3)}
    made = weights(graph, graph.rng.standard_normal(shapes["last" if last else "first"]))
    plain = graph.weight(*shapes["first" if last else "last"])
    first, second = (plain, made) if last else (made, plain)
    hidden = graph.node("Relu", graph.node("Conv", graph.input(), first, pads=[1] * 4, name="first"))
    return graph.model(graph.node("Conv", hidden, second, pads=[1] * 4, name="last"))


def cast(graph, value):
    return graph.node("Cast", value, to=TensorProto.FLOAT)


def of_halves(graph, value):
    """Computed in float16 and cast."""
    product = graph.node("Mul", graph.constant(value, np.float16), graph.constant(np.ones(value.shape), np.float16))
    return cast(graph, product)


def of_integers(graph, value):
    """Integers, cast and scaled."""
    integers = graph.constant(np.round(40 * value), np.int8)
    return graph.node("Mul", cast(graph, integers), graph.constant(np.float32(1 / 40)))


def of_plain_integers(graph, value):
    return cast(graph, graph.constant(np.round(2 * value), np.int8))


COMPUTED = {
    of_halves: "computed by Cast, not stored",
    of_integers: "computed by Mul, not stored",
    of_plain_integers: SENTENCE,
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("weights", COMPUTED)
def test_computed_weights_are_left_alone_with_a_reason(lbyl, tmp_path, weights, last):
    model, reason = tmp_path / "m.onnx", COMPUTED[weights]
    onnx.save(behind(weights, last), model)
    group = lbyl_onnx.inspect(model).groups[0]
    title = f"Conv '{'last' if last else 'first'}'"
    assert group.name == "first" and group.frozen_reason == f"the weights of {title} are {reason}"
    assert f"no: {group.frozen_reason}" in lbyl("inspect", model)[1]
    for options in ((), ("--restore", "lbyl", "--criterion", "l2"), ("--restore", "none", "--criterion", "random")):
        assert_refused(lbyl("compress", model, tmp_path / "out.onnx", *options), 4, group.frozen_reason)
    assert files(tmp_path) == ["m.onnx"]


def test_others_are_compressed_beside_a_computed_weight():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="first"))
    hidden = graph.node("Relu", graph.conv(hidden, 8, 8, name="second"))
    weight = of_halves(graph, graph.rng.standard_normal((4, 8, 3, 3)))
    model = graph.model(graph.node("Conv", hidden, weight, pads=[1] * 4, name="last"))
    first, second, _ = compress(model, 0.5).report.groups
    assert (first.units_after, second.units_after) == (4, 8)
    assert second.frozen_reason == "the weights of Conv 'last' are computed by Cast, not stored"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_stored_weight_behind_a_cast_is_compressed(dtype):
    def stored(graph, value):
        return cast(graph, graph.constant(value.astype(dtype)))

    result = compress(behind(stored), 0.5)
    assert result.report.groups[0].units_after == 4
    with pytest.raises(NothingToRemove):
        compress(behind(of_halves), 0.5)
