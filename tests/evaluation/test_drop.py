"""As small as it gets within a loss: the search with made-up losses, and how losses are judged."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.budgets import budgets
from lbyl_onnx.calibration.samples import Calibration
from lbyl_onnx.calibration.user_samples import SampleSet
from lbyl_onnx.compression import compress
from lbyl_onnx.errors import NothingToRemove, ValidationFailed
from lbyl_onnx.evaluation import judging, latency
from lbyl_onnx.evaluation.drop import LEAST_SHARE, PRECISION, Judge, Trial, folds_as_trials, judge_of, within_drop
from lbyl_onnx.evaluation.judging import Judging
from lbyl_onnx.evaluation.validation import compare
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import PruneOptions, RunOptions, SampleOptions
from lbyl_onnx.selection.allocation import Limit, OutOfReach
from lbyl_onnx.selection.plan import Choice, Plan

CPU = RunOptions("cpu")
CNN = ROOT / "models" / "digits_cnn.onnx"
RESNET = ROOT / "models" / "digits_resnet.onnx"
DIGITS = ROOT / "models" / "digits_eval.npz"


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch):
    monkeypatch.setattr(latency, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(latency, "LATENCY_PAIRS", (1, 3))


# ---- the search


class MadeUpPlanner:
    """One group of a thousand units, of which at most `most` can go and each is a thousandth of the work."""

    def __init__(self, most=875):
        self.most = most
        model = SimpleNamespace(name="the model")
        self.analysis = SimpleNamespace(model=model, groups=(None,))
        self.costs = SimpleNamespace(macs=lambda removed: 2e6 * (1 - np.asarray(removed)[..., 0] / 1000))

    def limits(self, targets):
        return [Limit(target.name, self.costs.macs, target.most(2e6)) for target in targets if target.name != "drop"]

    def plan(self, targets):
        try:
            return self.plan_of(self.counts(self.limits(targets)))
        except OutOfReach:
            raise NothingToRemove("macs cannot be reached") from None

    def counts(self, limits):
        wanted = max(int(np.ceil(round(1000 * (1 - limit.most / 2e6), 6))) for limit in limits)
        if wanted > self.most:
            raise OutOfReach(limits[-1], 0.0)
        return np.array([wanted])

    def plan_of(self, counts):
        return int(counts[0])


class MadeUpJudge:
    """Says what a plan loses, and keeps what it was asked."""

    def __init__(self, loss):
        self._loss = loss
        self.asked = []

    def loss(self, plan):
        self.asked.append(plan)
        return self._loss(plan)


def searched(points, loss, most=875):
    """The plan that is found, and all that were tried."""
    judge = MadeUpJudge(loss)
    return within_drop(MadeUpPlanner(most), budgets({"drop": points}), judge), judge.asked


@settings(max_examples=60, deadline=None)
@given(units=st.integers(10, 860), power=st.floats(0.5, 4))
def test_the_plan_found_holds_and_one_a_little_smaller_does_not(units, power):
    """The loss is one point once so many units are gone."""
    found, asked = searched(1, lambda plan: (plan / units) ** power)
    assert (1 - PRECISION) * units - 1 <= found <= units
    broken = min((plan for plan in asked if plan > units), default=876)
    assert broken - found <= PRECISION * broken + 1
    assert len(asked) <= 7


def test_all_that_can_go_goes_where_nothing_is_lost():
    found, _ = searched(1, lambda plan: 0.0, most=600)
    assert 600 * (1 - PRECISION) <= found <= 600


def test_a_loss_of_just_so_many_points_is_allowed():
    found, _ = searched(0, lambda plan: float(plan > 80))
    assert found == 80


def test_the_points_are_those_of_the_target():
    """The strictest one counts."""
    loss = MadeUpJudge(lambda plan: plan / 100)
    strict, lenient = (within_drop(MadeUpPlanner(), budgets({"drop": points}), loss) for points in (1, 4))
    both = within_drop(MadeUpPlanner(), (*budgets({"drop": 4}), *budgets({"drop": 1})), loss)
    assert both == strict <= 100 < lenient <= 400


def test_results_that_are_not_finite_are_not_taken():
    def loss(plan):
        if plan > 300:
            raise ValidationFailed("not finite")
        return 0.0

    found, asked = searched(1, loss)
    assert 300 * (1 - PRECISION) - 1 <= found <= 300 < max(asked)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_other_targets_hold_as_well(share):
    """Half of the work has to go at least, and little more may."""
    targets = budgets({"macs": share, "drop": "1%"})
    found = within_drop(MadeUpPlanner(most=950), targets, MadeUpJudge(lambda plan: plan / 930))
    assert 1000 * (1 - share) <= found <= 930


def test_another_target_out_of_reach_is_refused_before_anything_is_tried():
    judge = MadeUpJudge(lambda plan: 0.0)
    with pytest.raises(NothingToRemove, match="macs cannot be reached"):
        within_drop(MadeUpPlanner(most=400), budgets({"macs": 0.5, "drop": 1}), judge)
    assert not judge.asked


@pytest.mark.parametrize(("loss", "nearest"), [(lambda plan: 4 + plan / 100, "4.1"), (lambda plan: 50.0, "50")])
def test_the_nearest_loss_is_named_where_no_unit_can_go(loss, nearest):
    judge = MadeUpJudge(loss)
    with pytest.raises(NothingToRemove) as error:
        within_drop(MadeUpPlanner(), budgets({"drop": 1.5}), judge)
    assert str(error.value).startswith(
        "the model: no unit can go within 1.5% of accuracy; the nearest is expected to lose up to "
        f"{nearest} (--target drop={nearest}% allows that;"
    )
    assert LEAST_SHARE <= min(judge.asked) / 1000 < 2 * LEAST_SHARE
    allowed = within_drop(MadeUpPlanner(), budgets({"drop": f"{nearest}%"}), judge)
    assert loss(allowed) <= float(nearest)


def test_groups_of_too_few_units_are_named_where_no_plan_could_be_tried():
    judge = MadeUpJudge(lambda plan: 0.0)
    with pytest.raises(NothingToRemove, match=r"the model: no group has enough units to lose some; try --round-to 1$"):
        within_drop(MadeUpPlanner(most=0), budgets({"drop": 1}), judge)
    assert not judge.asked


# ---- samples


@pytest.mark.parametrize("batches", [2, 3, 5])
def test_each_fold_is_judged_on_what_it_was_not_restored_from(batches):
    drawn = [{"x": np.full((3, 2), number, np.float32)} for number in range(batches)]
    calibration = Calibration(drawn, tuple(number % 2 for number in range(batches)), True, "drawn")
    trials = folds_as_trials(calibration)
    judged = []
    for fold, trial in enumerate(trials):
        restored = {int(batch["x"][0, 0]) for batch in trial.calibration.batches}
        found = set(trial.samples.inputs["x"][:, 0].astype(int).tolist())
        assert restored == {number for number in range(batches) if number % 2 == fold}
        assert found == set(range(batches)) - restored
        assert trial.samples.labels is None and trial.samples.understates == 1
        judged += trial.samples.inputs["x"][:, 0].tolist()
    assert sorted(judged) == sorted(np.repeat(np.arange(batches, dtype=float), 3).tolist())


def test_a_single_fold_is_judged_on_itself():
    batches = [{"x": np.full((3, 2), number, np.float32)} for number in range(2)]
    (trial,) = folds_as_trials(Calibration(batches, (0, 0), False, "drawn"))
    assert trial.samples.inputs["x"][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(trial.calibration.batches) == 2


def trials_of(monkeypatch, calibration, evaluation=None, **target):
    """What a judge of a plan for such targets is given to try, with the judging that it was made from."""
    monkeypatch.setattr(judging, "default_samples", lambda *_: 6)
    image = Builder()
    model = load(image.model(image.conv(image.input(("N", 3, 16, 16)), 3, 4)))
    judged = Judging(model, "auto" if calibration.synthetic else calibration.batches[0], evaluation, SampleOptions())
    analysis = SimpleNamespace(answers=0.0)
    planner = SimpleNamespace(options=PruneOptions(targets=budgets(target)), runtime=CPU, analysis=analysis)
    judge = judge_of(planner, model, lambda *_: model, calibration, judged)
    return judge and judge._trials, judged


def images(synthetic):
    rng = np.random.default_rng(0)
    drawn = [{"x": rng.standard_normal((4, 3, 16, 16)).astype(np.float32)} for _ in range(2)]
    return Calibration(drawn, (0, 1), synthetic, "drawn")


def test_nothing_is_judged_where_no_loss_is_a_target(monkeypatch):
    assert trials_of(monkeypatch, images(True), macs=0.5)[0] is None


def test_samples_of_the_user_decide_fold_by_fold(monkeypatch):
    calibration = images(False)
    trials, _ = trials_of(monkeypatch, calibration, drop=1)
    assert len(trials) == 2
    assert (trials[0].samples.inputs["x"] == calibration.batches[1]["x"]).all()


def test_made_up_samples_decide_that_the_comparison_does_not_see(monkeypatch):
    calibration = images(True)
    ((trial,), judged) = trials_of(monkeypatch, calibration, drop=1)
    seen, last = (samples.inputs["x"] for samples in (trial.samples, judged.samples))
    assert trial.calibration is calibration and len(seen) == 24
    assert not any(np.array_equal(mine, other) for mine in seen for other in last)


def test_labelled_samples_decide_where_there_are_some(monkeypatch):
    given = {"x": images(False).batches[0]["x"], "labels": np.arange(4)}
    for synthetic in (True, False):
        ((trial,), _) = trials_of(monkeypatch, images(synthetic), given, drop=1)
        assert trial.samples.labels.tolist() == [0, 1, 2, 3]


# ---- judging

PLAN = Plan((), np.ones(1, bool))


def classifier(seed=0, scale=4.0):
    """Classes of six numbers."""
    graph = Builder(seed=seed)
    return load(graph.model(graph.node("Mul", graph.gemm(graph.input(("N", 6)), 6, 5), graph.constant(scale))))


def noisy(model, amount):
    """The model with other weights."""
    found = model.copy()
    for name, array in model.weights.items():
        if array.ndim == 2:
            change = np.random.default_rng(1).standard_normal(array.shape)
            found.replace(name, (array + amount * change).astype(np.float32))
    return found


def drawn(count=200, labels=None, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)
    return SampleSet({"x": values}, labels, "drawn")


def right(model, samples):
    (scores,) = run_batches(open_session(model), samples.inputs)
    return scores.argmax(axis=1)


def test_with_labels_the_loss_is_that_of_accuracy():
    original = classifier()
    samples = drawn(labels=right(original, drawn()))
    for amount in (0.1, 0.5):
        changed = noisy(original, amount)
        expected = 100 * (right(changed, samples) != samples.labels).mean()
        judge = Judge(original, lambda plan, calibration, changed=changed: changed, [Trial(None, samples)], CPU)
        assert judge.loss(PLAN) == pytest.approx(expected) and expected > 0


def test_a_result_may_win_accuracy():
    changed = noisy(classifier(), 0.5)
    samples = drawn(labels=right(changed, drawn()))
    assert Judge(classifier(), lambda *_: changed, [Trial(None, samples)], CPU).loss(PLAN) < 0


def test_without_labels_the_upper_end_of_what_is_expected_counts():
    original, changed = classifier(), noisy(classifier(), 0.2)
    (output,) = compare(original, changed, drawn(), CPU).outputs
    low, high = output.classes.expected_loss_interval
    judge = Judge(original, lambda *_: changed, [Trial(None, drawn())], CPU)
    assert judge.loss(PLAN) == pytest.approx(100 * high) and low < high


def test_outputs_that_are_no_classes_lose_a_share_of_what_tells_samples_apart():
    graph = Builder()
    plain = graph.gemm(graph.input(("N", 6)), 6, 5)
    original = load(
        graph.model(graph.node("Tile", graph.node("Unsqueeze", plain, graph.constant([2])), graph.constant([1, 1, 2])))
    )
    changed = noisy(original, 0.2)
    before, after = (run_batches(open_session(model), drawn().inputs)[0] for model in (original, changed))
    expected = 100 * np.square(after - before).sum() / before.var(axis=0, ddof=1).sum() / len(before)
    judge = Judge(original, lambda *_: changed, [Trial(None, drawn())], CPU)
    assert judge.loss(PLAN) == pytest.approx(expected, rel=1e-4)


def test_no_loss_is_told_by_outputs_that_are_the_same_for_all_samples():
    """Not zero, on which all could go."""
    still = {"x": np.zeros((8, 6), np.float32)}
    judge = Judge(classifier(), lambda *_: classifier(), [Trial(None, SampleSet(still, None, "zeros"))], CPU)
    with pytest.raises(NothingToRemove, match="no loss can be told"):
        judge.loss(PLAN)


def test_all_folds_are_judged_together_each_by_its_own_result():
    original = classifier()
    results = {0: original, 1: noisy(original, 0.4)}
    batches = [{"x": drawn(100, seed=seed).inputs["x"]} for seed in range(2)]
    calibration = Calibration(batches, (0, 1), False, "drawn")
    seen = []

    def restored(plan, samples):
        fold = next(number for number, batch in enumerate(batches) if batch is samples.batches[0])
        seen.append((plan, fold))
        return results[fold]

    loss = Judge(original, restored, folds_as_trials(calibration), CPU).loss(PLAN)
    assert seen == [(PLAN, 0), (PLAN, 1)]
    alone = [
        Judge(original, lambda *_, changed=results[fold]: changed, [trial], CPU).loss(PLAN)
        for fold, trial in enumerate(folds_as_trials(calibration))
    ]
    assert min(alone) < loss < max(alone)


def test_nothing_is_lost_by_the_model_itself():
    assert Judge(classifier(), lambda *_: classifier(), [Trial(None, drawn())], CPU).loss(PLAN) < 1


# ---- whole models


@pytest.fixture(scope="module")
def digits():
    with np.load(DIGITS) as data:
        return {"image": data["image"]}, data["labels"]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "scope", "points"), [(CNN, "chains", 1), (RESNET, "all", 3)])
def test_as_much_goes_as_so_many_points_allow(digits, model, scope, points):
    """One point is the default. The samples that are measured on have no labels."""
    inputs, labels = digits
    target = None if points == 1 else {"drop": points}
    samples = 256 if points == 1 else 128
    result = compress(model, target=target, scope=scope, samples=samples, calibration=inputs, validation=False)
    before, after = (
        100 * (right(each, SampleSet(inputs, None, "digits")) == labels).mean()
        for each in (load(model), result.compressed)
    )
    assert result.report.output.macs < 0.9 * result.report.input.macs
    assert before - after <= points


def test_with_labelled_samples_their_accuracy_counts(tmp_path):
    with np.load(DIGITS) as data:
        np.savez(tmp_path / "some.npz", **{name: array[:150] for name, array in data.items()})
    result = compress(CNN, target={"drop": "2%"}, samples=64, evaluation=str(tmp_path / "some.npz"))
    validation = result.report.validation
    assert 100 * (validation.accuracy_before - validation.accuracy_after) <= 2
    assert result.report.output.macs < 0.6 * result.report.input.macs


def test_outputs_larger_than_inputs_are_judged_on_fewer_samples(monkeypatch):
    """Of a model whose default is 512 samples."""
    monkeypatch.setattr(judging, "LEAST_DECIDING", 64)
    graph = Builder()
    model = load(graph.model(graph.conv(graph.input((1, 3, 8, 8)), 3, 4)))
    deciding = Judging(model, "auto", None, SampleOptions()).deciding
    usual = deciding().samples
    assert deciding(0.9).samples == deciding(1.0).samples == usual > 4 * 64
    assert deciding(4.0).samples == usual // 4
    assert deciding(1e9).samples == 64


def test_a_plan_is_tried_once():
    """Searches with other blocks come to the same plans."""
    tried = []

    def plan_of(*removed):
        return Plan(tuple(Choice(None, np.array(each, bool), None, None) for each in removed), np.ones(1, bool))

    def restored(plan, _):
        tried.append(plan)
        return noisy(classifier(), 0.1 * len(tried))

    judge = Judge(classifier(), restored, [Trial(None, drawn())], CPU)
    plans = [plan_of([1, 0], [0, 0, 1]), plan_of([1, 0], [0, 1, 0]), plan_of([1, 0], [0, 0, 1])]
    losses = [judge.loss(plan) for plan in plans]
    assert tried == plans[:2] and losses[0] == losses[2] != losses[1]
