import math

import numpy as np
import pytest
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper
from scipy.special import rel_entr, softmax

from lbyl_onnx.calibration.samples import UNDERSTATED, calibrate, unseen
from lbyl_onnx.errors import ModelError, UsageError, ValidationFailed
from lbyl_onnx.evaluation import comparison, latency, output_errors, validation
from lbyl_onnx.evaluation.validation import validate
from lbyl_onnx.evaluation.verdict import check_limits
from lbyl_onnx.model.reading import load
from lbyl_onnx.options import Limits, Normalisation, SampleOptions


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)


def proto_of(nodes, inputs, outputs, weights=None):
    def values(items):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in items]

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scaled(scale=1.0, batch="N", classes=3, name="x", operator="Mul"):
    """y = x * scale: the inputs are the logits."""
    return proto_of(
        [helper.make_node(operator, [name, "scale"], ["y"])],
        [(name, TensorProto.FLOAT, [batch, classes])],
        [("y", TensorProto.FLOAT, [batch, classes])],
        {"scale": np.array(scale, np.float32)},
    )


def logits(count=40, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def test_identical_models():
    result = validate(scaled(), scaled(), provider="cpu", samples=5)
    (output,) = result.outputs
    assert (output.name, output.shape) == ("y", (5, 3))
    assert (output.max_error, output.mean_error, output.sqnr_db) == (0, 0, math.inf)
    assert output.cosine == pytest.approx(1) and output.top1_agreement == 1 and output.ware == 0
    assert (result.provider, result.data, result.samples) == ("cpu", "synthetic samples, seed 0", 5)
    assert (result.latency_batch, result.accuracy_before, result.accuracy_after) == (1, None, None)
    assert result.latency_before_ms > 0 and result.latency_after_ms > 0


def test_measures_follow_their_definitions_over_all_slices(monkeypatch):
    monkeypatch.setattr(comparison, "BATCH_LIMIT", 7)
    monkeypatch.setattr(comparison, "ONE_BY_ONE", 7)
    monkeypatch.setattr(output_errors, "CHUNK", 5)
    x, weight = logits(), np.array([1.0, 0.5, -2.0], np.float32)
    (output,) = validate(scaled(), scaled(weight), {"x": x}).outputs
    old, new = x.astype(np.float64), (x * weight).astype(np.float64)
    assert output.shape == (40, 3)
    assert output.max_error == pytest.approx(np.abs(old - new).max())
    assert output.mean_error == pytest.approx(np.abs(old - new).mean())
    weights = np.abs(old) / np.abs(old).mean()
    assert output.ware == pytest.approx(np.mean(weights * np.abs(new - old) / np.abs(old)))
    assert output.sqnr_db == pytest.approx(10 * np.log10((old**2).sum() / ((old - new) ** 2).sum()))
    varies = len(old) * old.var(axis=0, ddof=1).sum()
    assert output.variation_db == pytest.approx(10 * np.log10(varies / ((old - new) ** 2).sum()))
    assert output.cosine == pytest.approx((old * new).sum() / np.linalg.norm(old) / np.linalg.norm(new))
    agreement = np.mean(old.argmax(1) == new.argmax(1))
    assert 0 < agreement < 1 and output.top1_agreement == pytest.approx(agreement)


def test_expected_losses_on_made_up_samples_are_understated_and_those_on_given_ones_are_not():
    """The same samples, made up and given."""
    options, weight = SampleOptions(samples=64), np.array([1.0, 0.8, 1.3], np.float32)
    made_up = unseen(load(scaled()), "auto", options, count=64)
    (found,) = validate(scaled(), scaled(weight), samples=64).outputs
    (plain,) = validate(scaled(), scaled(weight), made_up.inputs).outputs
    assert found.top1_agreement == plain.top1_agreement < 1 and found.sqnr_db == plain.sqnr_db
    assert found.classes.divergence == plain.classes.divergence
    assert found.classes.expected_loss == pytest.approx(UNDERSTATED * plain.classes.expected_loss) and UNDERSTATED > 1


@pytest.mark.parametrize(("scale", "sqnr", "cosine"), [(0.0, 0.0, 0.0), (-1.0, -20 * math.log10(2), -1.0)])
def test_sqnr_and_cosine_of_extremes(scale, sqnr, cosine):
    (output,) = validate(scaled(), scaled(scale), {"x": logits()}).outputs
    assert output.sqnr_db == pytest.approx(sqnr, abs=1e-6) and output.cosine == pytest.approx(cosine, abs=1e-6)


def test_an_original_of_zeros():
    (same,) = validate(scaled(0.0), scaled(0.0), {"x": logits(1)}).outputs
    (other,) = validate(scaled(0.0), scaled(1.0), {"x": logits()}).outputs
    assert (same.sqnr_db, same.cosine, same.ware) == (math.inf, 1, 0)
    assert (other.sqnr_db, other.cosine, other.ware) == (-math.inf, 0, math.inf)


@pytest.mark.parametrize("operators", [["Mul"], ["Mul", "Log"], ["Mul", "Log", "Neg"]])
def test_an_output_that_is_the_same_for_all_samples_says_nothing(operators):
    """Zero, or not finite."""
    proto = scaled(0.0)
    for number, operator in enumerate(operators[1:]):
        name = proto.graph.node[-1].output[0] = f"h{number}"
        proto.graph.node.append(helper.make_node(operator, [name], ["y"]))
    same = validate(proto, proto, {"x": logits()})
    assert (same.outputs, same.silent_outputs, same.verdict) == ((), ("y",), None)
    with pytest.raises(ValidationFailed, match="no output can be compared"):
        check_limits(same, Limits(min_sqnr=10))


def test_boxes_beside_probabilities_are_no_classes():
    """What a box loses is told in decibels."""

    def detector(scale):
        graph = Builder()
        faces = graph.node("Softmax", graph.gemm(graph.input(("N", 3)), 3, 2), name="face")
        return graph.model(graph.node("Mul", graph.gemm("x", 3, 4), graph.constant(scale), name="box"), faces)

    box, face = validate(detector(1.0), detector(0.5), {"x": logits()}).outputs
    assert box.classes is None and face.classes is not None
    found = validate(detector(1.0), detector(0.5), {"x": logits()}).verdict
    assert found.level == "damaged" and f"'box' keeps {box.variation_db:.1f} dB of what" in found.reason
    assert box.variation_db < box.sqnr_db


@pytest.mark.parametrize(("error", "silent"), [(1e-6, True), (0.1, False)])
def test_rounding_of_an_output_that_never_changes_is_no_error(error, silent):
    """Samples are multiplied by zero, and one is added."""

    def constant(value):
        graph = Builder()
        zero = graph.node("Mul", graph.input(("N", 3, 2)), graph.constant(0.0))
        return graph.model(graph.node("Add", zero, graph.constant(value), name="y"))

    x = np.random.default_rng(0).standard_normal((8, 3, 2)).astype(np.float32)
    found = validate(constant(1.0), constant(1.0 + error), {"x": x})
    assert found.silent_outputs == (("y",) if silent else ())
    assert found.verdict is None if silent else found.verdict.level == "ruined"


def test_rounding_of_an_output_that_hardly_changes_is_no_error():
    """Beside what it has in common, samples move it by a millionth, and so does the error."""

    def nearly(value):
        graph = Builder()
        little = graph.node("Mul", graph.input(("N", 3, 2)), graph.constant(1e-6))
        return graph.model(graph.node("Add", little, graph.constant(value), name="y"))

    x = np.random.default_rng(0).standard_normal((8, 3, 2)).astype(np.float32)
    found = validate(nearly(1.0), nearly(1.000002), {"x": x})
    (output,) = found.outputs
    assert output.variation_db < 3 < 80 < output.told_db == output.sqnr_db and found.verdict.level == "intact"
    assert "of signal over error" in found.verdict.reason


def test_one_sample_is_taken_at_its_word():
    (same,) = validate(scaled(), scaled(), {"x": logits(1)}).outputs
    assert same.sqnr_db == math.inf


def test_accuracies(tmp_path):
    x = logits(50)
    labels = x.argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 3
    np.savez(tmp_path / "eval.npz", x=x, labels=labels)
    flipped = scaled([1.0, 1.0, -1.0])
    result = validate(scaled(), flipped, tmp_path / "eval.npz")
    assert result.accuracy_before == pytest.approx(0.8)
    assert result.accuracy_after == pytest.approx(np.mean((x * [1, 1, -1]).argmax(1) == labels))
    assert (result.samples, result.data) == (50, str(tmp_path / "eval.npz"))


def test_static_batch_drops_the_remainder_and_its_labels():
    x = logits(11)
    labels = x.argmax(axis=1)
    labels[8:] = (labels[8:] + 1) % 3
    result = validate(scaled(batch=4), scaled(batch=4), {"x": x, "labels": labels})
    assert (result.samples, result.latency_batch, result.accuracy_before) == (8, 4, 1)
    with pytest.raises(UsageError, match="has 3 samples, but one run of the model takes 4"):
        validate(scaled(batch=4), scaled(batch=4), {"x": x[:3]})


@pytest.mark.parametrize(
    ("batch", "samples", "expected"), [("N", 7, 7), ("N", 99, 40), (4, 6, 4), (4, 2, 4), (4, 8, 8)]
)
def test_given_samples_are_taken_up_to_a_number(batch, samples, expected):
    """Evenly from all of them."""
    x = logits()
    limit = min(max(samples, 4), 40)
    taken = (np.arange(limit) * 40 // limit)[:expected]
    labels = (x.argmax(axis=1) + 1) % 3
    labels[taken] = x[taken].argmax(axis=1)
    result = validate(scaled(batch=batch), scaled(batch=batch), {"x": x, "labels": labels}, samples=samples)
    assert (result.samples, result.outputs[0].shape, result.accuracy_before) == (expected, (expected, 3), 1)


def test_what_has_no_effect_on_given_samples_is_said():
    options = {"seed": 3, "shapes": {"x": (1, 3)}, "normalisation": Normalisation((0.5,), (0.5,))}
    told = validate(scaled(), scaled(), {"x": logits()}, **options).warnings
    assert len(told) == 3 and all("no effect" in line for line in told)
    assert validate(scaled(), scaled(), {"x": logits()}, samples=3).warnings == ()
    assert validate(scaled(), scaled(), **options).warnings == ()


def test_a_dynamic_batch_in_name_only_is_run_one_by_one(monkeypatch):
    monkeypatch.setattr(comparison, "ONE_BY_ONE", 7)
    model = proto_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["M", 3])],
        {"shape": np.array([1, 3])},
    )
    assert validate(model, model, {"x": logits(9)}).samples == 9


def test_not_finite_where_the_original_is():
    x = np.array([[1, 2, 3], [1, 2, -np.inf]], np.float32)
    with pytest.raises(ValidationFailed, match=r"output 'y' .* not finite at 2 of 3"):
        validate(scaled(), scaled([1, np.inf, np.inf]), {"x": x})


def test_elements_not_finite_in_the_original_are_left_out():
    old, new = scaled([1, 1, np.inf]), scaled([1, 1, 2])
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    (output,) = validate(old, new, {"x": x}).outputs
    assert output.max_error == 0 and output.sqnr_db == math.inf


def test_changed_output_shape_and_interface():
    wide = proto_of(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 6])],
    )
    with pytest.raises(ValidationFailed, match=r"'y' .* has shape \(1, 6\), the original's \(1, 3\)"):
        validate(scaled(), wide, samples=4)
    with pytest.raises(ValidationFailed, match="inputs differ"):
        validate(scaled(), scaled(name="z"))
    renamed = scaled()
    renamed.graph.node[0].output[0] = renamed.graph.output[0].name = "logits"
    with pytest.raises(ValidationFailed, match=r"outputs differ.*logits"):
        validate(scaled(), renamed)


def test_models_that_do_not_load_or_run(tmp_path):
    invalid = scaled(operator="NoSuchOperator")
    with pytest.raises(ValidationFailed, match="does not load"):
        validate(scaled(), invalid)
    with pytest.raises(ModelError):
        validate(invalid, scaled())
    with pytest.raises(ValidationFailed, match="does not run"):
        validate(scaled(), scaled(batch=2), {"x": logits(5)})
    fixed = proto_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", "T"])],
        [("y", TensorProto.FLOAT, [7])],
        {"shape": np.array([7])},
    )
    with pytest.raises(ModelError, match=r"the original model fails on inputs \(synthetic samples, seed 0\)"):
        validate(fixed, fixed)


def test_outputs_of_other_types():
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["x"], ["brain"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["x"], ["byte"], to=TensorProto.UINT8),
        helper.make_node("Greater", ["x", "one"], ["flag"]),
        helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING),
        helper.make_node("SequenceConstruct", ["x"], ["list"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
    ]
    kinds = {"half": "FLOAT16", "brain": "BFLOAT16", "byte": "UINT8", "flag": "BOOL", "text": "STRING"}
    outputs = [(name, getattr(TensorProto, kind), ["N", 3]) for name, kind in kinds.items()]
    proto = proto_of(
        nodes,
        [("x", TensorProto.FLOAT, ["N", 3])],
        [*outputs, ("sum", TensorProto.FLOAT, [])],
        {"one": np.float32(1)},
    )
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, ["N", 3])
    proto.graph.output.append(sequence)
    compared = {output.name: output for output in validate(proto, proto, {"x": np.abs(logits(20))}).outputs}
    assert {name: output.shape for name, output in compared.items()} == {
        "half": (20, 3),
        "brain": (20, 3),
        "byte": (20, 3),
        "flag": (20, 3),
        "sum": (),
    }
    agreement = {name: output.top1_agreement for name, output in compared.items()}
    assert agreement == {"half": 1, "brain": 1, "byte": None, "flag": None, "sum": None}
    assert all(output.sqnr_db == math.inf for output in compared.values())


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": logits(), "labels": np.zeros(40, int)}, r"no array named 'x'.*\['images', 'labels'\]"),
        ({"x": logits()[0]}, r"has shape \(3,\)"),
        ({"x": logits(), "labels": np.zeros(39, int)}, r"expected integers of shape \(40,\)"),
        ({"x": logits(), "labels": np.zeros(40)}, "labels are float64"),
        ({"x": logits(), "labels": np.full(40, 3)}, "label 3 is outside the 3 classes of output 'y'"),
        ({"x": np.array([{}, {}])}, "not a readable .npz"),
    ],
)
def test_data_that_does_not_fit(tmp_path, arrays, found):
    np.savez(tmp_path / "eval.npz", **arrays)
    with pytest.raises(UsageError, match=found) as error:
        validate(scaled(), scaled(), tmp_path / "eval.npz")
    assert "\n" not in str(error.value)


def test_inputs_of_different_length_and_no_samples():
    both = proto_of(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, ["N", 3]), ("b", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 3])],
    )
    with pytest.raises(UsageError, match="differ in their number of samples"):
        validate(both, both, {"a": logits(4), "b": logits(5)})
    with pytest.raises(UsageError, match="samples is 0"):
        validate(both, both, samples=0)
    with pytest.raises(UsageError, match="seed is -1"):
        validate(both, both, seed=-1)


def test_made_up_samples_are_none_of_the_calibration():
    model = load(scaled())
    options = SampleOptions(samples=4)
    (x,) = unseen(model, "auto", options).inputs.values()
    assert not np.isin(x, [batch["x"] for batch in calibrate(model, "auto", options).batches]).any()


def test_made_up_images_are_of_the_size_and_scale_asked_for():
    graph = Builder()
    hidden = graph.conv(graph.input(("N", 3, "H", "W")), 3, 2)
    model = graph.model(graph.gemm(graph.node("Flatten", hidden), 2 * 6 * 5, 4))
    options = {"shapes": {"x": (1, 3, 6, 5)}, "normalisation": Normalisation((0.0,), (1 / 255,))}
    (output,) = validate(model, model, **options).outputs
    assert output.shape == (128, 4) and output.max_error == 0
    large = unseen(load(model), "auto", SampleOptions(**options), count=4).inputs["x"]
    assert large.shape == (4, 3, 6, 5) and large.min() >= 0 and 100 < large.max() <= 255


def selection(offset=0.0, size="found"):
    """The places of positive elements, of which there are as many as the values say, and the values themselves."""
    shifted = helper.make_node("Add", ["x", "offset"], ["y"])
    places = helper.make_node("NonZero", ["positive"], ["places"])
    return proto_of(
        [shifted, helper.make_node("Greater", ["y", "zero"], ["positive"]), places],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 3]), ("places", TensorProto.INT64, [2, size])],
        {"offset": np.array(offset, np.float32), "zero": np.array(0, np.float32)},
    )


def test_outputs_whose_sizes_follow_values_are_not_compared():
    result = validate(selection(), selection(3.0))
    assert [output.name for output in result.outputs] == ["y"] and result.free_outputs == ("places",)
    result = validate(selection(), selection())
    assert [output.name for output in result.outputs] == ["y", "places"] and result.free_outputs == ()
    nameless = validate(selection(size=None), selection(3.0, size=None))
    assert nameless.free_outputs == ("places",)
    with pytest.raises(ValidationFailed, match="'places' of the compressed model has shape"):
        validate(selection(size="N"), selection(3.0, size="N"))


@pytest.mark.parametrize("above", [(0, 0), (0, 101), (101, 0)])
def test_a_list_of_objects_may_be_empty(above):
    """As that of a detector which finds nothing: here all of four rows, or none, are above the threshold."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["best"], axes=[0, 2], keepdims=0),
        helper.make_node("Greater", ["best", "threshold"], ["found"]),
        helper.make_node("Compress", ["x", "found"], ["objects"], axis=1),
    ]
    shapes = [("x", TensorProto.FLOAT, [1, 4, 6])], [("objects", TensorProto.FLOAT, [1, "found", 6])]
    model = proto_of(nodes, *shapes, {"threshold": np.array(50, np.float32)})
    rows = np.random.default_rng(0).standard_normal((2, 4, 6)) + np.reshape(above, (2, 1, 1))
    result = validate(model, model, {"x": rows.astype(np.float32)})
    assert (result.silent_outputs == ("objects",)) if above == (0, 0) else (result.outputs[0].max_error == 0)


def in_turns(monkeypatch, before, after):
    durations = {"before": iter(before), "after": iter(after)}
    order = []

    def timed(session, feed):
        order.append(session)
        return [], next(durations[session])

    monkeypatch.setattr(latency, "timed", timed)
    return order


def test_latency_takes_turns_and_stops(monkeypatch):
    order = in_turns(monkeypatch, [9, 0.006, 0.005, 0.004, 8], [9, 0.003, 0.001, 0.002, 8])
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0)
    found = latency.latencies("before", "after", {}, [])
    assert found.milliseconds == pytest.approx(np.array([[6, 3], [5, 1], [4, 2]])) and found.medians == (5, 2)
    assert order == ["before", "after"] * 4


def test_a_result_that_does_not_seem_faster_is_timed_longer(monkeypatch):
    """Another program was in the way of the first runs."""
    quick, slow = [0.001] * 13, [9, *[0.005] * 3, *[0.0005] * 9]
    order = in_turns(monkeypatch, quick, slow)
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0)
    found = latency.latencies("before", "after", {}, [])
    assert order == ["before", "after"] * 13 and found.medians == pytest.approx((1, 0.5))


def test_latency_counts_the_runs_of_the_comparison(monkeypatch):
    order = in_turns(monkeypatch, [0.004], [0.003])
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 30)
    compared = [(9, 9), (0.006, 0.001), (0.005, 0.002)]
    found = latency.latencies("before", "after", {}, [*compared, (9, 9)])
    assert found.milliseconds == pytest.approx(np.array([[6, 1], [5, 2], [9000, 9000]]))
    assert not order
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0)
    found = latency.latencies("before", "after", {}, compared)
    assert found.milliseconds == pytest.approx(np.array([[6, 1], [5, 2], [4, 3]]))
    assert order == ["before", "after"]


def test_quantiles_of_latencies_go_from_the_shortest_to_the_longest():
    before, after = latency.Latencies(np.array([[4.0, 1], [1, 1], [2, 1], [3, 1], [5, 2]])).quantiles
    assert len(before) == len(after) == latency.QUANTILES and list(before) == sorted(before)
    assert (before[0], before[10], before[-1]) == (1, 3, 5) and after[-1] == 2


def test_what_was_not_timed_has_no_latencies():
    assert latency.UNTIMED.quantiles == ((), ()) and np.isnan(latency.UNTIMED.medians).all()


def test_few_samples_are_compared_and_timed_one_by_one(monkeypatch):
    taken = []
    monkeypatch.setattr(validation, "latencies", lambda *given: taken.append(len(given[3])) or latency.UNTIMED)
    for count in (5, 65):
        assert validate(scaled(), scaled(0.5), {"x": logits(count)}).samples == count
    assert taken == [5, 1]


@pytest.mark.parametrize(("shape", "expected"), [((3, 8, 8), 128), ((3, 224, 224), 64), ((3, 512, 512), 16)])
def test_large_inputs_are_compared_on_fewer_samples(shape, expected):
    model = proto_of(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", *shape])],
        [("y", TensorProto.FLOAT, ["N", shape[0], 1, 1])],
    )
    assert validate(model, model).samples == expected
    assert validate(model, model, samples=2).samples == 2


def at_positions(weight=None):
    """A line of numbers read at each of five places: a softmax over their last axis."""
    graph = Builder()
    weight = np.ones(3, np.float32) if weight is None else weight
    value = graph.node("Mul", graph.input(("N", 5, 3)), graph.constant(weight))
    return graph.model(graph.node("Softmax", value, axis=2))


def test_answers_at_positions_are_compared(monkeypatch):
    monkeypatch.setattr(comparison, "BATCH_LIMIT", 7)
    monkeypatch.setattr(comparison, "ONE_BY_ONE", 7)
    weight = np.array([1.0, 0.5, -2.0], np.float32)
    x = logits(40 * 5).reshape(40, 5, 3)
    result = validate(at_positions(), at_positions(weight), {"x": x})
    (output,) = result.outputs
    old, new = (softmax(value.astype(np.float64), axis=2) for value in (x, x * weight))
    agreement = np.mean(old.argmax(2) == new.argmax(2))
    assert output.classes is None and 0 < agreement < 1
    assert output.positions.agreement == output.top1_agreement == pytest.approx(agreement)
    told = rel_entr(old, old.mean(axis=0)).sum() * 40 / 39
    assert output.positions.lost == pytest.approx(rel_entr(old, new).sum() / told, rel=1e-4)
    assert result.divergence == output.positions.lost
    assert result.verdict.reason.endswith(f"{100 * agreement:.1f} % of its answers are the original's")


def test_answers_at_positions_that_are_all_alike_lose_signal_alone():
    """One sample: nobody knows what tells it apart."""
    x = logits(5).reshape(1, 5, 3)
    result = validate(at_positions(), at_positions(np.array([1.0, 0.5, 2.0], np.float32)), {"x": x})
    (output,) = result.outputs
    assert output.positions.lost is None and output.variation_db is None
    assert result.divergence == pytest.approx(10 ** (-output.sqnr_db / 10))
