"""Which samples a compression has seen."""

import numpy as np
from conftest import ROOT

import lbyl_onnx
from lbyl_onnx.calibration import samples_used as module
from lbyl_onnx.calibration.samples_used import SamplesUsed, read_samples_used, sample_hashes, samples_used

CNN = ROOT / "models" / "digits_cnn_folded.onnx"


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)}


def digits(start: int, end: int) -> dict[str, np.ndarray]:
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return {"image": data["image"][start:end], "labels": data["labels"][start:end]}


def test_hashes_are_those_of_values_wherever_they_stand():
    values = rows(5)["x"]
    hashes = sample_hashes({"x": values})
    assert len(set(hashes)) == 5 and all(len(each) == 16 for each in hashes)
    assert sample_hashes({"x": values[::-1]}) == hashes[::-1]
    assert sample_hashes({"x": values[:, ::-1]}) != hashes
    assert sample_hashes({"x": values.astype(np.float64)}) != hashes
    assert sample_hashes({"y": values}) != hashes


def test_all_inputs_of_a_sample_count_and_scalars_do_not():
    one, two = rows(4)["x"], rows(4, 1)["x"]
    both = sample_hashes({"a": one, "b": two})
    assert sample_hashes({"b": two, "a": one, "s": np.float32(3)}) == both
    changed = two.copy()
    changed[2] += 1
    assert [x == y for x, y in zip(both, sample_hashes({"a": one, "b": changed}), strict=True)] == [
        True,
        True,
        False,
        True,
    ]


def test_equal_samples_are_one():
    assert samples_used([rows(5), rows(5), rows(3, 1)]).count == 8


def test_only_so_many_hashes_are_kept_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(module, "MOST", 4)
    whole = sorted(sample_hashes(rows(10)))
    used = samples_used([rows(10)])
    assert used == SamplesUsed(10, tuple(whole[:4])) and not used.complete
    assert (used | SamplesUsed()).count == 10


def test_a_model_carries_them():
    model = lbyl_onnx.load(CNN)
    assert read_samples_used(model) == SamplesUsed()
    SamplesUsed().write(model)
    assert not model.proto.metadata_props
    first, second = samples_used([rows(5)]), samples_used([rows(7, 1)])
    first.write(model)
    second.write(model)
    assert read_samples_used(model) == first | second and len(model.proto.metadata_props) == 1
    model.proto.metadata_props[0].value = "nonsense"
    assert read_samples_used(model) == SamplesUsed()


def test_a_compression_records_what_it_was_given(tmp_path):
    """Samples to measure on, those held out of them, and labelled ones to judge by; in the file and in the report."""
    given, judged = digits(0, 100), digits(100, 160)
    result = lbyl_onnx.compress(CNN, 0.2, calibration=given, evaluation=judged)
    lbyl_onnx.save(result, tmp_path / "small.onnx")
    expected = {*sample_hashes({"image": given["image"]}), *sample_hashes({"image": judged["image"]})}
    read = read_samples_used(lbyl_onnx.load(tmp_path / "small.onnx"))
    held_out = 16
    found = lbyl_onnx.Report.from_json(result.report.to_json()).samples
    assert read == found == result.report.samples
    assert set(found.hashes) <= expected and found.count == 160 - held_out
    without = lbyl_onnx.compress(CNN, 0.2, calibration=given).report.samples
    assert set(without.hashes) == set(sample_hashes({"image": given["image"]}))


def test_a_plan_hands_on_what_it_rests_on():
    plan = lbyl_onnx.plan(CNN, 0.2, calibration=digits(0, 80))
    result = lbyl_onnx.compress(CNN, plan=plan, validation=False)
    assert result.report.samples == plan.samples and plan.samples.count == 80


def test_made_up_samples_leave_no_record():
    result = lbyl_onnx.compress(CNN, 0.2, validation=False)
    assert result.report.samples == SamplesUsed() and not result.model.metadata_props
