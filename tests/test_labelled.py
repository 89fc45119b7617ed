"""Labelled samples and limits in `compress`: accuracies, what is refused early, and results that are not written."""

import numpy as np
import onnx
import pytest
from command_line import assert_refused, files, lbyl  # noqa: F401
from graphs import Builder
from PIL import Image
from uniform import UNIFORM, compress

from lbyl_onnx import compression
from lbyl_onnx.errors import UsageError, ValidationFailed
from lbyl_onnx.evaluation import judging, latency
from lbyl_onnx.evaluation.records import Report
from lbyl_onnx.evaluation.verdict import INTACT
from lbyl_onnx.options import Normalisation

PIXELS = Normalisation((0.0,), (1.0,))
"""Leaves images in [0, 1]."""
COLOURS = 3
SHARE_RIGHT = 0.75


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


def classifier(copies=2):
    """Which of three colours an image has most of: each colour is taken up by so many equal filters."""
    graph = Builder()
    first = np.tile(np.eye(COLOURS), (copies, 1)).reshape(copies * COLOURS, COLOURS, 1, 1)
    last = 20 * np.tile(np.eye(COLOURS), (1, copies)).reshape(COLOURS, copies * COLOURS, 1, 1) / copies
    hidden = graph.node("Conv", graph.input(("N", COLOURS, 4, 6), "image"), graph.constant(first), name="first")
    hidden = graph.node("Conv", graph.node("Relu", hidden), graph.constant(last), name="last")
    return graph.model(graph.node("Flatten", graph.node("GlobalAveragePool", hidden)))


def colours(count=40):
    """Images in [0, 1], three channels, and the class of each, of which a quarter is wrong."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % COLOURS
    images = rng.uniform(0, 0.5, (count, COLOURS, 4, 6)).astype(np.float32)
    images[np.arange(count), labels] += 0.5
    wrong = np.arange(count) % 4 == 3
    return images, np.where(wrong, (labels + 1) % COLOURS, labels)


def painted(folder, names=("0", "1", "2"), count=40, used=range(COLOURS)):
    """The same in one sub-folder for each class."""
    images, labels = colours(count)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in used:
            (folder / names[label]).mkdir(parents=True, exist_ok=True)
            pixels = np.round(255 * image.transpose(1, 2, 0)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / names[label] / f"{number}.png")
    return folder


def shortened(model=None, ratio=0.5, **options):
    """`compress` of the classifier, by default without loss, on images in [0, 1]."""
    return compress(model or classifier(), ratio, **{"normalisation": PIXELS, "samples": 64, **options})


def broken(**options):
    """One of three colours, 0, is lost."""
    return shortened(classifier(1), 0.3, criterion="l1", restore="none", scope="all", **options)


@pytest.fixture
def measured(tmp_path):
    """Files of the model, of labelled arrays, and of arrays without labels."""
    images, labels = colours()
    onnx.save(classifier(1), tmp_path / "model.onnx")
    np.savez(tmp_path / "eval.npz", image=images, labels=labels)
    np.savez(tmp_path / "plain.npz", image=images)
    return tmp_path


# ---- what accuracies are measured on


@pytest.mark.parametrize("form", ["mapping", "npz", "numbers", "names"])
def test_labelled_samples_give_accuracies(form, tmp_path):
    images, labels = colours()
    source = tmp_path / "eval"
    if form == "mapping":
        source = {"image": images, "labels": labels}
    elif form == "npz":
        source = tmp_path / "eval.npz"
        np.savez(source, image=images, labels=labels)
    else:
        painted(source, {"numbers": ("0", "1", "2"), "names": ("amber", "blue", "cyan")}[form])
    report = shortened(evaluation=source).report
    found = report.validation
    assert (found.accuracy_before, found.accuracy_after, found.samples) == (SHARE_RIGHT, SHARE_RIGHT, len(labels))
    assert found.verdict.level == INTACT and "points of accuracy" in found.verdict.reason
    assert found.data.startswith("given arrays" if form == "mapping" else str(source))
    assert report.options.evaluation == ("arrays" if form == "mapping" else str(source))
    assert Report.from_json(report.to_json()).validation.accuracy_after == SHARE_RIGHT


def test_numbers_of_folders_are_numbers_not_texts(tmp_path):
    """Class 10 comes behind class 2, and classes without images leave no gap."""
    painted(tmp_path / "eval", ("00", "1", "002"), used=(0, 2))
    found = shortened(evaluation=tmp_path / "eval").report.validation
    labels = colours()[1]
    right = (labels == np.arange(40) % COLOURS)[labels != 1].mean()
    assert found.accuracy_before == pytest.approx(right) and found.samples == (labels != 1).sum()


def test_what_a_broken_result_lost_is_measured(measured):
    found = broken(evaluation=measured / "eval.npz").report.validation
    assert found.accuracy_before == SHARE_RIGHT and found.accuracy_after < SHARE_RIGHT - 0.15
    assert found.verdict.level != INTACT and "points of accuracy" in found.verdict.reason


def test_samples_limit_what_is_measured_on_not_what_is_evaluated(measured):
    found = shortened(evaluation=measured / "eval.npz", samples=4).report
    assert found.validation.samples == 40 and found.calibration.startswith("4 synthetic samples")


def test_a_folder_is_evaluated_up_to_a_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "MAX_EVALUATED", 12)
    found = shortened(evaluation=painted(tmp_path / "eval")).report.validation
    assert found.samples == 12 and found.accuracy_before is not None


def test_without_labelled_samples_there_are_no_accuracies():
    found = shortened().report
    assert found.validation.accuracy_before is found.validation.accuracy_after is found.options.evaluation is None
    assert found.validation.outputs[0].classes is not None


# ---- labels that are missing or wrong


def refused(match, parameter="eval", model=None, **options):
    """UsageError before any unit has been chosen."""
    with pytest.raises(UsageError, match=match) as caught:
        shortened(model, **options)
    assert caught.value.parameter == parameter and "\n" not in str(caught.value)


@pytest.fixture
def never_chosen(monkeypatch):
    def choose(*_):
        raise AssertionError("the work had begun")

    monkeypatch.setattr(compression._Compression, "choose", choose)


@pytest.mark.usefixtures("never_chosen")
def test_samples_without_labels_are_refused_before_the_work_begins(measured, tmp_path):
    images, _ = colours()
    loose = tmp_path / "loose"
    painted(loose)
    Image.new("RGB", (6, 4)).save(loose / "in no class.png")
    for source in (measured / "plain.npz", {"image": images}, loose):
        refused("^eval .*has no labels.*one sub-folder for each class", evaluation=source)


@pytest.mark.usefixtures("never_chosen")
def test_samples_that_cannot_be_read_are_refused_before_the_work_begins(measured):
    (measured / "empty").mkdir()
    for source, match in [
        (measured / "missing.npz", "no such file; expected .*labels"),
        (measured / "model.onnx", r"not a readable \.npz"),
        (measured / "empty", "holds no images"),
        ({"picture": colours()[0], "labels": colours()[1]}, "no array named 'image'"),
        ({"image": colours()[0], "labels": colours()[1][:-1]}, r"labels are int64 of shape \(39,\)"),
        ({"image": colours()[0], "labels": colours()[1] / 2}, "labels are float64"),
    ]:
        with pytest.raises(UsageError, match=match):
            shortened(evaluation=source)
    refused("^eval is a list; expected .*labels", evaluation=[1, 2])


def test_a_label_beyond_the_classes():
    images, labels = colours()
    with pytest.raises(UsageError, match="label 3 is outside the 3 classes"):
        shortened(evaluation={"image": images, "labels": labels + 1})


def test_fewer_named_folders_than_classes_say_nothing(tmp_path):
    """Which of the classes they are cannot be known, unlike that of numbered ones."""
    painted(tmp_path / "eval", ("amber", "blue", "cyan"), used=(0, 2))
    refused("has no labels for the classes of an output; .*named with its number", evaluation=tmp_path / "eval")


def test_a_model_without_classes():
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(("N", 3, 4, 6), "image"), 3, 8))
    images, labels = colours()
    mask = graph.model(graph.conv(hidden, 8, 2))
    refused("no labels for the classes of an output", model=mask, evaluation={"image": images, "labels": labels})


# ---- limits


def test_limits_that_are_kept(measured):
    options = {"evaluation": measured / "eval.npz", "max_drop": 0, "min_agreement": 100, "min_sqnr": 20}
    report = shortened(**options).report
    limits = report.options.limits
    assert (limits.max_drop, limits.min_agreement, limits.min_sqnr) == (0, 100, 20)
    assert Report.from_json(report.to_json()).options == report.options


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_drop": 5}, r"accuracy falls from 75\.0 to .* %, --max-drop is 5;"),
        ({"min_agreement": 90}, r"% of top-1 answers agree, --min-agreement is 90"),
        ({"min_sqnr": 20}, r"keeps .* dB, --min-sqnr is 20"),
    ],
)
def test_limits_that_are_broken(limits, message, measured):
    for evaluation in [measured / "eval.npz", *([] if "max_drop" in limits else [None])]:
        with pytest.raises(ValidationFailed, match=message):
            broken(evaluation=evaluation, **limits)


@pytest.mark.parametrize("limit", [["--max-drop", 5, "--eval"], ["--min-agreement", 90], ["--min-sqnr", 20]])
def test_nothing_is_written_where_a_limit_is_broken(lbyl, measured, limit):  # noqa: F811
    limit = [*limit, measured / "eval.npz"] if limit[-1] == "--eval" else limit
    before = files(measured)
    options = [*UNIFORM, "--criterion", "l1", "--restore", "none", "--scope", "all", "--input-range", "0,1"]
    report = measured / "report.json"
    arguments = ["compress", measured / "model.onnx", measured / "out.onnx", "--report", report, *options, "--quiet"]
    assert_refused(lbyl(*arguments, *limit), 5, limit[0])
    assert files(measured) == before
    code, _, _ = lbyl(*arguments)
    assert code == 0 and files(measured) == sorted([*before, "out.onnx", "report.json"])


def test_the_command_line_shows_accuracies(lbyl, measured):  # noqa: F811
    arguments = "compress", measured / "model.onnx", measured / "out.onnx", "--eval", measured / "eval.npz"
    code, printed, _ = lbyl(*arguments, *UNIFORM, "--scope", "all", "--input-range", "0,1")
    assert code == 0 and "75" in printed and "verdict:" in printed and "points of accuracy" in printed


@pytest.mark.usefixtures("never_chosen")
@pytest.mark.parametrize(
    ("name", "value"), [("max_drop", 5), ("min_agreement", 90), ("min_sqnr", 20), ("evaluation", "eval.npz")]
)
def test_limits_need_the_comparison(name, value):
    parameter = "eval" if name == "evaluation" else name
    refused("needs the comparison; leave out --no-validate", parameter, validation=False, **{name: value})


@pytest.mark.usefixtures("never_chosen")
def test_a_limit_on_accuracy_needs_labelled_samples():
    refused("^max_drop needs labelled samples; give them with --eval", "max_drop", max_drop=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", 5], "--max-drop needs labelled samples"),
        (["--max-drop", 5, "--eval", "eval.npz", "--no-validate"], "--max-drop needs the comparison"),
        (["--min-agreement", 90, "--no-validate"], "--min-agreement needs the comparison"),
        (["--min-sqnr", 9, "--no-validate"], "--min-sqnr needs the comparison; leave out --no-validate"),
        (["--eval", "eval.npz", "--no-validate"], "--eval needs the comparison"),
        (["--eval", "plain.npz"], "--eval "),
        (["--eval", "plain.npz"], "has no labels"),
        (["--max-drop", 101, "--eval", "eval.npz"], "--max-drop is 101; expected points of accuracy"),
        (["--min-agreement", 0.5], "--min-agreement is 0.5; expected per cent"),
    ],
)
def test_the_command_line_names_its_own_options(lbyl, measured, monkeypatch, arguments, message):  # noqa: F811
    monkeypatch.chdir(measured)
    before = files(measured)
    assert_refused(lbyl("compress", "model.onnx", "out.onnx", "--quiet", *arguments), 2, message)
    assert files(measured) == before
