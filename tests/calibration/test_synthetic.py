import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, TypeProto, helper, numpy_helper

from lbyl_onnx.calibration import dead_leaves as dead_leaves_module
from lbyl_onnx.calibration.dead_leaves import dead_leaves
from lbyl_onnx.calibration.inputs import InputSpec, concrete_shapes, input_specs
from lbyl_onnx.calibration.normalisation import normalised, scaling
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import feed_batches, open_session, run
from lbyl_onnx.options import Normalisation, SampleOptions


def model_with(*inputs, nodes=None, weights=None, output_rank=None):
    """Inputs are (name, element type, shape); without nodes the first is passed through."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    nodes = nodes or [helper.make_node("Identity", [inputs[0][0]], ["y"])]
    shape = inputs[0][2] if output_rank is None else [None] * output_rank
    kind = inputs[0][1] if output_rank is None else TensorProto.FLOAT
    output = helper.make_tensor_value_info("y", kind, shape)
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", values, [output], initializers)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def spec(*shape, name="x", dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


@pytest.mark.parametrize("size", [(32, 32), (28, 40), (96, 160)])
def test_dead_leaves_look_like_photographs(size):
    images = dead_leaves(48, 3, *size, seed=3).astype(np.float64)
    assert images.min() >= 0 and images.max() <= 1 and 0.35 < images.mean() < 0.6 and images.std() > 0.15
    channels = np.corrcoef(images.transpose(1, 0, 2, 3).reshape(3, -1))
    assert np.all((channels > 0.8) & (channels < 0.95) | np.eye(3, dtype=bool))
    for one, other in ((images[..., 1:], images[..., :-1]), (images[:, :, 1:], images[:, :, :-1])):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
    assert images.mean(axis=(1, 2, 3)).std() > 0.08


def test_dead_leaves_have_flat_leaves_and_sharp_edges():
    steps = np.abs(np.diff(dead_leaves(8, 1, 128, 128), axis=-1))
    assert np.median(steps) < 0.03 and np.quantile(steps, 0.99) > 0.2


@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(1, 3),
    channels=st.integers(1, 5),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    seed=st.integers(0, 2**32),
)
def test_dead_leaves_are_determined_by_the_seed(samples, channels, height, width, seed):
    images = dead_leaves(samples, channels, height, width, seed)
    assert images.shape == (samples, channels, height, width) and images.dtype == np.float32
    assert np.isfinite(images).all() and images.std() > 0
    np.testing.assert_array_equal(images, dead_leaves(samples, channels, height, width, seed))
    assert not np.array_equal(images, dead_leaves(samples, channels, height, width, seed + 1))


def test_dead_leaves_are_painted_in_parts_of_the_same_kind():
    images = dead_leaves(130, 1, 8, 8)
    assert len(np.unique(images.reshape(130, -1), axis=0)) == 130


def test_dead_leaves_are_fast():
    start = time.process_time()
    dead_leaves(16, 3, 224, 224)
    assert time.process_time() - start < 3


def test_normalisation_defaults_and_application():
    assert Normalisation.default(3).mean == (0.485, 0.456, 0.406)
    assert Normalisation.default(1) == Normalisation((0.5,), (0.5,))
    images = np.full((2, 3, 4, 4), 0.5, np.float32)
    found = normalised(images, Normalisation((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    np.testing.assert_allclose(found[1, :, 0, 0], [0.8, 0.3, 0.1], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("found", "axis"),
    [
        (spec(1, 3, 224, 224), 1),
        (spec(None, 3, None, None), 1),
        (spec(1, 224, 224, 3), 3),
        (spec(None, None, None, 1), 3),
        (spec(1, 16, 8, 8), 1),
        (spec(1, 3, 2, 2), None),
        (spec(1, 3, 224), None),
        (spec(1, 1, 16, 16, name="attention_mask"), None),
        (spec(1, 1, 16, 16, dtype=np.bool_), None),
    ],
)
def test_channel_axis(found, axis):
    assert found.channel_axis == axis


def test_input_specs_leave_out_initializers():
    model = model_with(
        ("x", TensorProto.FLOAT16, ["N", 3]),
        ("w", TensorProto.FLOAT16, [3]),
        weights={"w": np.ones(3, np.float16)},
        output_rank=2,
        nodes=[
            helper.make_node("Add", ["x", "w"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=1),
        ],
    )
    assert input_specs(model) == (spec(None, 3, dtype=np.float16),)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])), "sequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])), "optional"),
        (helper.make_tensor_type_proto(TensorProto.STRING, [2]), "string"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT, None), "no rank"),
        (TypeProto(), "undeclared"),
    ],
)
def test_inputs_that_are_no_tensors_of_numbers_are_named(kind, found):
    model = model_with(("x", TensorProto.FLOAT, [1]))
    model.proto.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(ModelError, match=f"input 'x'.*{found}"):
        input_specs(model)


def test_concrete_shapes_fill_every_dynamic_axis():
    shapes = {
        "nchw": (spec(None, 3, None, None, name="nchw"), (2, 3, 96, 96)),
        "nhwc": (spec(None, None, 64, 3, name="nhwc"), (2, 96, 64, 3)),
        "open": (spec(1, None, None, None, name="open"), (1, 3, 96, 96)),
        "tokens": (spec(None, None, name="tokens", dtype=np.int64), (2, 16)),
        "features": (spec(None, None, 80, name="features"), (2, 16, 80)),
        "signal": (spec(None, 1, None, name="signal"), (2, 1, 96)),
        "volume": (spec(None, 1, None, None, None, name="volume"), (2, 1, 32, 32, 32)),
        "scalar": (spec(name="scalar"), ()),
    }
    specs = [found for found, _ in shapes.values()]
    assert concrete_shapes(specs, 2, 96) == {name: shape for name, (_, shape) in shapes.items()}


def test_given_shapes_override_and_are_checked():
    specs = [spec(None, 3, None, None)]
    assert concrete_shapes(specs, 2, shapes={"x": (5, 3, 8, 9)}) == {"x": (2, 3, 8, 9)}
    assert concrete_shapes([spec(5, None)], 2, shapes={"x": (5, 7)}) == {"x": (5, 7)}
    for shape in ((5, 3, 8), (5, 4, 8, 8), (5, 3, 8, 0)):
        with pytest.raises(UsageError, match=r"does not fit input 'x', which is \(\?, 3, \?, \?\)"):
            concrete_shapes(specs, 2, shapes={"x": shape})
    with pytest.raises(UsageError, match="'y', which is no input"):
        concrete_shapes(specs, 2, shapes={"y": (1,)})


def test_elongated_images_have_a_bounded_number_of_leaves(monkeypatch):
    painted = []
    leaf = dead_leaves_module._leaf
    monkeypatch.setattr(dead_leaves_module, "_leaf", lambda *given: painted.append(1) or leaf(*given))
    assert dead_leaves(1, 1, 4, 900).shape == (1, 1, 4, 900)
    assert len(painted) == dead_leaves_module.LEAVES_PER_SQUARE * dead_leaves_module.MOST_SQUARES


def test_scaling_is_said_in_words():
    images, grey = spec(None, 3, None, None), spec(None, 1, 8, 8)
    assert scaling([images], {"x": (1, 3, 8, 8)}, None) == "normalised by mean 0.485,0.456,0.406, std 0.229,0.224,0.225"
    assert scaling([grey], {"x": (1, 1, 8, 8)}, None) == "normalised by mean 0.5, std 0.5 (-1 to 1)"
    pixels = Normalisation((-0.0,), (1 / 255,))
    assert scaling([images], {}, pixels) == "normalised by mean 0, std 0.00392 (0 to 255)"
    assert scaling([spec(None, 3, 8, 8, dtype=np.uint8)], {}, None) == "values 0 to 255"
    assert scaling([spec(None, 3, 8, 8, dtype=np.int8)], {}, None) == "values -128 to 127"
    assert scaling([spec(None, 7)], {}, None) == ""


def test_images_are_normalised_and_channels_last_is_respected():
    first = synthetic_inputs(model_with(("x", TensorProto.FLOAT, ["N", 3, 16, 16])), 8)["x"]
    last = synthetic_inputs(model_with(("x", TensorProto.FLOAT, ["N", 16, 16, 3])), 8)["x"]
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    restored = first * np.reshape((0.229, 0.224, 0.225), (3, 1, 1)) + np.reshape((0.485, 0.456, 0.406), (3, 1, 1))
    assert first.dtype == np.float32 and first.min() < -0.5 and restored.min() > -1e-6 and restored.max() < 1 + 1e-6
    model = model_with(("x", TensorProto.FLOAT, ["N", 3, 16, 16]))
    raw = synthetic_inputs(model, 8, SampleOptions(normalisation=Normalisation((0,) * 3, (1,) * 3)))["x"]
    np.testing.assert_allclose(raw, restored, atol=1e-6)


@pytest.mark.parametrize(("kind", "low", "high"), [("UINT8", 0, 255), ("INT32", 0, 255), ("INT8", -128, 127)])
def test_integer_images_use_the_whole_range(kind, low, high):
    images = synthetic_inputs(model_with(("x", getattr(TensorProto, kind), [1, 3, 32, 32])), 8)["x"]
    assert images.dtype == np.dtype(kind.lower()) and low <= images.min() < images.max() <= high
    assert int(images.max()) - int(images.min()) > 200


@pytest.mark.parametrize(("batch", "expected"), [("N", 5), (1, 5), (4, 8), (8, 8)])
def test_first_axis_is_samples_in_whole_batches(batch, expected):
    model = model_with(("x", TensorProto.FLOAT, [batch, 3, 8, 8]), ("t", TensorProto.FLOAT, [batch, 7]))
    inputs = synthetic_inputs(model, 5)
    assert inputs["x"].shape == (expected, 3, 8, 8) and inputs["t"].shape == (expected, 7)
    session = open_session(model)
    fed = [run(session, feed)[0] for feed in feed_batches(session, inputs)]
    np.testing.assert_array_equal(np.concatenate(fed), inputs["x"])


def test_inputs_with_another_first_axis_get_rows_for_every_run():
    inputs = (
        ("x", TensorProto.FLOAT, [2, 7]),
        ("anchors", TensorProto.FLOAT, [9, 4]),
        ("s", TensorProto.FLOAT, []),
    )
    shapes = {name: array.shape for name, array in synthetic_inputs(model_with(*inputs), 5).items()}
    assert shapes == {"x": (6, 7), "anchors": (27, 4), "s": ()}


def test_text_inputs():
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["y"], axis=1),
    ]
    table = np.ones((4, 23), np.float32)
    inputs = [(name, TensorProto.INT32, ["N", "T"]) for name in names]
    arrays = synthetic_inputs(model_with(*inputs, nodes=nodes, weights={"table": table}, output_rank=3), 40)
    assert all(array.shape == (40, 16) and array.dtype == np.int32 for array in arrays.values())
    assert arrays["input_ids"].min() == 0 and arrays["input_ids"].max() == 22
    assert (arrays["attention_mask"] == 1).all() and (arrays["token_type_ids"] == 0).all()
    np.testing.assert_array_equal(arrays["position_ids"][3], np.arange(16))


def test_tokens_cover_the_vocabulary_and_stay_small_where_it_is_unknown():
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = np.ones((500, 2), np.float32)
    ids = ("ids", TensorProto.INT64, ["N", 50])
    known = synthetic_inputs(model_with(ids, nodes=nodes, weights={"table": table}, output_rank=3), 40)["ids"]
    assert known.min() == 0 and known.max() == 499
    assert synthetic_inputs(model_with(ids), 40)["ids"].max() == 9


def test_other_inputs():
    model = model_with(
        ("vector", TensorProto.FLOAT, ["N", 100]),
        ("half", TensorProto.BFLOAT16, ["N", 6, 10]),
        ("keep", TensorProto.BOOL, ["N", 3]),
        ("image_mask", TensorProto.FLOAT, ["N", 1, 8, 8]),
    )
    arrays = synthetic_inputs(model, 50)
    assert abs(arrays["vector"].mean()) < 0.05 and abs(arrays["vector"].std() - 1) < 0.05
    assert arrays["half"].dtype == ml_dtypes.bfloat16 and arrays["half"].astype(np.float32).std() > 0.9
    assert arrays["keep"].dtype == np.bool_ and arrays["keep"].all()
    assert (arrays["image_mask"] == 1).all()


def test_seed_and_shapes():
    model = model_with(("x", TensorProto.FLOAT, ["N", 3, "H", "W"]))
    shapes = {"x": (1, 3, 12, 20)}
    one, same, other = (synthetic_inputs(model, 2, SampleOptions(shapes=shapes, seed=seed))["x"] for seed in (7, 7, 8))
    assert one.shape == (2, 3, 12, 20)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
