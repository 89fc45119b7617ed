"""Ridge regression from streamed moments against the same regression solved from all rows at once."""

from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.calibration import ridge_regression
from lbyl_onnx.calibration.ridge_regression import FIRST_TRIED, STRENGTHS, RowMoments, downhill
from lbyl_onnx.calibration.statistics import channel_statistics, within

RIDGE = 1e-2
"""What `solve` takes for a single fold."""


def gathered(x, y, cuts=()):
    """Moments of rows x (groups, rows, inputs) and y (rows, groups x outputs), added in parts."""
    groups, rows, inputs = x.shape
    moments = RowMoments(groups, y.shape[1] // groups, inputs)
    for start, end in zip([0, *cuts], [*cuts, rows], strict=True):
        moments.add(x[:, start:end].astype(np.float32), y[start:end].astype(np.float32))
    return moments


def regression(x, y, present, centred):
    """The matrix (groups, outputs, inputs) straight from the rows, as least squares with penalty rows."""
    result = []
    targets = np.split(y, len(x), axis=1)
    for rows, target, start in zip(x, targets, present, strict=True):
        spread = rows - rows.mean(axis=0)
        penalty = np.sqrt(RIDGE * (spread**2).mean() if centred else RIDGE * (rows**2).mean())
        if centred:
            rows, target = spread, target - target.mean(axis=0)
        scale = np.sqrt(len(rows))
        system = np.concatenate([rows / scale, penalty * np.eye(rows.shape[1])])
        wanted = np.concatenate([(target - rows @ start.T) / scale, np.zeros((rows.shape[1], len(start)))])
        result.append(start + np.linalg.lstsq(system, wanted, rcond=None)[0].T)
    return np.array(result)


def left_over(x, y, matrix, centred):
    """Share of the outputs' variance (not centred: energy) that the matrix leaves."""
    residual = y - np.concatenate([rows @ m.T for rows, m in zip(x, matrix, strict=True)], axis=1)
    if centred:
        return residual.var(axis=0).sum() / y.var(axis=0).sum()
    return (residual**2).sum() / (y**2).sum()


def problem(rng, groups=1, rows=200, inputs=6, outputs=4, mean=0.0, noise=0.3):
    """Correlated rows with a mean, outputs that depend on them linearly up to noise, and a matrix to start from."""
    x = rng.standard_normal((groups, rows, inputs)) @ rng.standard_normal((inputs, inputs)) + mean
    truth = rng.standard_normal((groups, outputs, inputs))
    y = np.concatenate([r @ t.T for r, t in zip(x, truth, strict=True)], axis=1)
    y = y + noise * rng.standard_normal(y.shape)
    x, y = x.astype(np.float32).astype(np.float64), y.astype(np.float32).astype(np.float64)
    return x, y, truth + 0.5 * rng.standard_normal(truth.shape)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    groups=st.integers(1, 3),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 5),
    rows=st.integers(2, 150),
    centred=st.booleans(),
    data=st.data(),
)
def test_the_regression_of_all_rows(seed, groups, inputs, outputs, rows, centred, data):
    rng = np.random.default_rng(seed)
    x, y, present = problem(rng, groups, rows, inputs, outputs, mean=1.0)
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=4)))
    fitted = gathered(x, y, cuts).solve(present, centred)
    expected = regression(x, y, present, centred)
    assert fitted.matrix.shape == expected.shape and fitted.matrix.dtype == np.float64
    np.testing.assert_allclose(fitted.matrix, expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 0.5, 20.0])
def test_the_error_told_is_the_error_measured(centred, groups, noise):
    x, y, present = problem(np.random.default_rng(3), groups, 500, noise=noise, mean=2.0)
    fitted = gathered(x, y, (100, 350)).solve(present, centred)
    assert fitted.error == pytest.approx(left_over(x, y, fitted.matrix, centred), rel=1e-3, abs=1e-6)


def test_centring_takes_an_offset():
    """y = x + 5: without an offset part of it has to come from the weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4000, 3))
    y = x[0] + 5
    moments, present = gathered(x, y, (1000,)), np.eye(3)[None]
    free, bound = moments.solve(present, centred=True), moments.solve(present, centred=False)
    np.testing.assert_allclose(free.matrix, present, atol=1e-5)
    assert free.error < 1e-6 < 0.5 < bound.error


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_large_means_cost_no_accuracy(mean):
    """Inputs and outputs far from zero, as in front of a normalisation that takes the mean away."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 3000, 5))
    truth, present = rng.standard_normal((1, 4, 5)), rng.standard_normal((1, 4, 5))
    y = x[0] @ truth[0].T + 0.1 * rng.standard_normal((3000, 4))
    near = gathered(x, y, (500, 2000)).solve(present, centred=True)
    far = gathered(x + mean, y + mean, (500, 2000)).solve(present, centred=True)
    rounding = mean * np.finfo(np.float32).eps
    np.testing.assert_allclose(far.matrix, near.matrix, atol=2 * rounding)
    assert far.error == pytest.approx(near.error, rel=0.05)


@given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(1, 60))
def test_rows_may_come_in_any_portions(portions, capacity):
    """Portions, empty ones too, that fill the block once, several times or never make no difference."""
    rng = np.random.default_rng(5)
    count = 1 + sum(portions)
    x, present = rng.standard_normal((2, count, 3)) + 4, rng.standard_normal((2, 2, 3))
    y = rng.standard_normal((count, 4))
    whole = gathered(x, y).solve(present, centred=True)
    with mock.patch.object(ridge_regression, "CHUNK", capacity * 2 * (3 + 2)):
        parts = gathered(x, y, np.cumsum(portions)).solve(present, centred=True)
    np.testing.assert_allclose(parts.matrix, whole.matrix, atol=1e-4)
    np.testing.assert_allclose(parts.wanted.mean, y.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("value", [-1.0, 0.0, -1e-12])
def test_a_covariance_that_rounding_left_indefinite(value):
    """The fit is that of the ridge, or of the weakest one that makes the system definite: of a hundred times as much,
    or of one that dominates it."""
    present = np.array([[1.0, -2.0, 0.5]])
    gram = np.full((3, 3), value)
    matrix, condition = ridge_regression._solve(gram, np.zeros((1, 3)), present, RIDGE)
    definite = [r for r in (RIDGE, 100 * RIDGE) if np.linalg.eigvalsh(gram + r * np.eye(3)).min() > 0]
    ridge = next(iter(definite), RIDGE + np.abs(gram).sum(axis=0).max())
    system = gram + ridge * np.eye(3)
    assert condition == pytest.approx(np.linalg.cond(system, 1), rel=0.1)
    np.testing.assert_allclose(matrix @ system, ridge * present, rtol=1e-6, atol=1e-9)


def test_no_rows_are_no_basis():
    moments = RowMoments(1, 2, 3)
    assert not moments.finite
    moments.add(np.empty((1, 0, 3)), np.empty((0, 2)))
    assert not moments.finite
    moments.add(np.ones((1, 4, 3)), np.ones((4, 2)))
    assert moments.finite


def test_the_ridge_pulls_towards_the_present_weights():
    """What the rows do not show stays as it is; what they show well moves all the way."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 1000, 4)) * [1, 1, 1, 0]
    present = rng.standard_normal((1, 2, 4))
    fitted = gathered(x, x[0] @ np.ones((4, 2))).solve(present, centred=True)
    np.testing.assert_allclose(fitted.matrix[..., 3], present[..., 3])
    np.testing.assert_allclose(fitted.matrix[..., :3], 1, atol=0.05)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda rng: np.zeros((1, 50, 6)),
        lambda rng: np.full((1, 50, 6), 3.0),
        lambda rng: rng.standard_normal((1, 50, 1)) * np.ones(6),
        lambda rng: rng.standard_normal((1, 3, 6)),
        lambda rng: rng.standard_normal((1, 1, 6)),
        lambda rng: 1e-18 * rng.standard_normal((1, 50, 6)),
        lambda rng: 1e12 * rng.standard_normal((1, 50, 6)),
        lambda rng: rng.standard_normal((1, 50, 6)) * np.logspace(-8, 8, 6),
    ],
    ids=["zero", "constant", "equal", "few rows", "one row", "tiny", "huge", "uneven"],
)
def test_singular_inputs(make, centred):
    rng = np.random.default_rng(2)
    x, present = make(rng), rng.standard_normal((1, 3, 6))
    y = x[0] @ present[0].T
    fitted = gathered(x, y).solve(present, centred)
    assert np.isfinite(fitted.matrix).all() and np.isfinite(fitted.error) and fitted.condition >= 1
    assert np.abs(fitted.matrix).max() < 10
    assert fitted.error < 1e-3


def test_large_systems_are_solved_in_single_precision(monkeypatch):
    rng = np.random.default_rng(4)
    x, y, present = problem(rng, groups=2, rows=900, inputs=40)
    exact = gathered(x, y, (400,)).solve(present, centred=True).matrix
    monkeypatch.setattr(ridge_regression, "SINGLE_PRECISION_INPUTS", 10)
    rounded = gathered(x, y, (400,)).solve(present, centred=True).matrix
    assert (rounded != exact).any()
    np.testing.assert_allclose(rounded, exact, atol=1e-3)


def test_condition_grows_with_uneven_inputs():
    rng = np.random.default_rng(6)
    x, present = rng.standard_normal((1, 400, 8)), np.zeros((1, 2, 8))
    even, uneven = (gathered(scaled, x[0, :, :2]).solve(present, True) for scaled in (x, x * np.logspace(-3, 0, 8)))
    assert 1 <= even.condition < uneven.condition
    exact = np.cov(x[0].T, bias=True)
    exact += RIDGE * np.trace(exact) / 8 * np.eye(8)
    assert even.condition == pytest.approx(np.linalg.cond(exact, 1), rel=0.2)


def test_half_precision_rows():
    rng = np.random.default_rng(7)
    x, y, present = problem(rng)
    moments = RowMoments(1, 4, 6)
    moments.add(x.astype(np.float16), y.astype(np.float16))
    np.testing.assert_allclose(moments.solve(present, True).matrix, regression(x, y, present, True), atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4), st.sampled_from([1, -1, 2]), st.sampled_from([0.0, 3.0, -20.0]))
def test_channel_statistics(seed, batches, axis, mean):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, batches)
    values = [(mean + rng.standard_normal((size, 3, 2, 5))).astype(np.float32) for size in sizes]
    whole = np.concatenate(values).astype(np.float64)
    others = tuple(other for other in range(4) if other != axis % 4)
    found = channel_statistics(values, axis)
    assert all(value.shape == (whole.shape[axis],) and value.dtype == np.float64 for value in found)
    np.testing.assert_allclose(found[0], whole.mean(axis=others), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], whole.var(axis=others), rtol=1e-4, atol=1e-6 * (1 + mean**2))


def test_the_variance_of_a_constant_is_nearly_zero_and_never_negative():
    for value in (0.0, 0.1, 1234.567):
        mean, variance = channel_statistics([np.full((8, 2, 7), value, np.float32)] * 3, 1)
        np.testing.assert_allclose(mean, value, rtol=1e-6)
        assert (variance >= 0).all() and (variance <= 1e-6 * value**2).all()


def test_the_variance_of_large_maps_far_from_zero():
    values = (900 + np.random.default_rng(8).standard_normal((4, 3, 64, 64))).astype(np.float32)
    found = channel_statistics([values[:2], values[2:]], 1)
    np.testing.assert_allclose(found.variance, values.astype(np.float64).var(axis=(0, 2, 3)), rtol=1e-4)


def test_values_beyond_a_type_become_its_ends():
    value = np.array([1e6, -1e6, 2.5])
    np.testing.assert_array_equal(within(value, np.dtype(np.float16)), [65504, -65504, 2.5])
    for dtype in (np.float32, ml_dtypes.bfloat16):
        found = within(value, np.dtype(dtype))
        assert found.dtype == dtype and np.isfinite(found.astype(np.float32)).all()


def test_statistics_of_nothing():
    assert channel_statistics([], 1) is None and channel_statistics([np.empty((0, 2, 7))], 1) is None
    some, empty = np.ones((3, 2, 7), np.float32), np.empty((0, 2, 7), np.float32)
    np.testing.assert_allclose(channel_statistics([empty, some], 1).mean, [1, 1])


def test_statistics_of_channels_far_from_zero():
    rng = np.random.default_rng(8)
    values = [(1000 + rng.standard_normal((500, 2))).astype(np.float32) for _ in range(4)]
    whole = np.concatenate(values).astype(np.float64)
    np.testing.assert_allclose(channel_statistics(values, 1)[1], whole.var(axis=0), rtol=0.01)


@pytest.mark.filterwarnings("error")
def test_statistics_in_half_precision_do_not_overflow():
    """The square of a value that float16 holds may be one that it does not."""
    values = [np.array([[300.0, -1000.0], [-300.0, 2000.0]], np.float16)]
    mean, variance = channel_statistics(values, 1)
    np.testing.assert_allclose(mean, [0, 500])
    np.testing.assert_allclose(variance, [300**2, 1500**2])


# ---- strengths by cross-validation


def in_folds(x, y, fold_of, folds=2):
    """Moments of rows x (groups, rows, inputs) and y (rows, groups x outputs), each row in a fold of its own."""
    moments = RowMoments(len(x), y.shape[1] // len(x), x.shape[2], folds)
    for start in range(0, len(y), 7):
        part = slice(start, start + 7)
        for fold in np.unique(fold_of[part]):
            chosen = np.flatnonzero(fold_of[part] == fold) + start
            moments.add(x[:, chosen].astype(np.float32), y[chosen].astype(np.float32), int(fold))
    return moments


def ridge_fit(x, y, present, centred, strength):
    """Matrix (groups, outputs, inputs) and the means of x and y (0 unless centred), straight from the rows."""
    targets = np.moveaxis(y.reshape(len(y), len(x), -1), 1, 0)
    x_mean, y_mean = x.mean(axis=1, keepdims=True) * centred, targets.mean(axis=1, keepdims=True) * centred
    if strength == np.inf:
        return present, x_mean, y_mean
    matrix = []
    for rows, wanted, start in zip(x - x_mean, targets - y_mean, present, strict=True):
        gram = rows.T @ rows / len(rows)
        system = gram + strength * np.trace(gram) / len(gram) * np.eye(len(gram))
        missing = (wanted - rows @ start.T).T @ rows / len(rows)
        matrix.append(start + np.linalg.solve(system, missing.T).T)
    return np.array(matrix), x_mean, y_mean


def held_out_error(x, y, fold_of, present, centred, strength):
    """The share of each fold's variance about what the other folds expect that a fit to those leaves."""
    left = total = 0.0
    for fold in np.unique(fold_of):
        judged, others = fold_of == fold, fold_of != fold
        matrix, x_mean, y_mean = ridge_fit(x[:, others], y[others], present, centred, strength)
        rows = x[:, judged] - x_mean
        wanted = np.moveaxis(y[judged].reshape(judged.sum(), len(x), -1), 1, 0) - y_mean
        left += ((wanted - rows @ np.swapaxes(matrix, 1, 2)) ** 2).sum()
        total += (wanted**2).sum()
    return left / total


def has_one_valley(errors):
    """Whether errors fall up to some point, and rise from there on, always by more than rounding."""
    steps = np.diff(errors)
    rising = steps > 0
    return (np.diff(rising.astype(int)) >= 0).all() and (np.abs(steps) > 1e-4 * np.max(errors)).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    groups=st.integers(1, 3),
    rows=st.sampled_from([12, 30, 100, 400]),
    noise=st.sampled_from([0.0, 0.1, 1.0, 5.0, 50.0]),
    folds=st.integers(2, 3),
    centred=st.booleans(),
)
def test_the_strength_is_the_one_with_least_held_out_error(seed, groups, rows, noise, folds, centred):
    rng = np.random.default_rng(seed)
    x, y, present = problem(rng, groups, rows, noise=noise, mean=1.0)
    fold_of = rng.permutation(np.arange(rows) % folds)
    errors = {each: held_out_error(x, y, fold_of, present, centred, each) for each in (*STRENGTHS, np.inf)}
    fitted = in_folds(x, y, fold_of, folds).solve(present, centred)
    assert fitted.strength in errors
    assert fitted.error == pytest.approx(errors[fitted.strength], rel=1e-3, abs=1e-6)
    assert fitted.error <= errors[np.inf] * (1 + 1e-3) + 1e-6
    expected = ridge_fit(x, y, present, centred, fitted.strength)[0]
    np.testing.assert_allclose(fitted.matrix, expected, atol=2e-3 * max(1, np.abs(expected).max()))
    if has_one_valley([errors[each] for each in STRENGTHS]):
        assert fitted.error == pytest.approx(min(errors.values()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("rows", "noise"), [(24, 0.0), (24, 3.0), (24, 20.0), (2000, 0.3), (2000, 200.0)])
def test_more_noise_and_fewer_rows_make_a_stronger_ridge(rows, noise, centred):
    """Each case has one valley, so the search has to find its floor."""
    rng = np.random.default_rng(4)
    x, y, present = problem(rng, 2, rows, noise=noise)
    fold_of = np.arange(rows) % 2
    errors = {each: held_out_error(x, y, fold_of, present, centred, each) for each in (*STRENGTHS, np.inf)}
    steps = np.diff([errors[each] for each in STRENGTHS]) > 0
    assert (np.diff(steps.astype(int)) >= 0).all()
    assert in_folds(x, y, fold_of).solve(present, centred).strength == min(errors, key=errors.get)


def test_chosen_strengths_differ_by_orders_of_magnitude():
    """Over problems that differ in noise and rows, every strength of the grid is the best of some."""
    found = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows, noise = int(rng.choice([14, 40, 400])), float(10 ** rng.uniform(-2, 2))
        x, y, present = problem(rng, 1, rows, noise=noise)
        found.add(in_folds(x, y, np.arange(rows) % 2).solve(present, True).strength)
    assert len(found) >= 5 and np.inf in found


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_folds_that_contradict_one_another_leave_the_weights_alone(groups, centred):
    """What one fold teaches is wrong on the other."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((groups, 100, 5))
    present = rng.standard_normal((groups, 3, 5))
    fold_of = np.arange(100) % 2
    sign = np.where(fold_of, 1, -1)[:, None]
    outputs = [rows @ start.T + sign * (rows @ np.ones((5, 3))) for rows, start in zip(x, present, strict=True)]
    y = np.concatenate(outputs, axis=1)
    fitted = in_folds(x, y, fold_of).solve(present, centred)
    assert fitted.strength == np.inf and fitted.condition == 1
    np.testing.assert_array_equal(fitted.matrix, present)
    assert fitted.error == pytest.approx(held_out_error(x, y, fold_of, present, centred, np.inf), rel=1e-4)
    assert in_folds(x, y, fold_of * 0).solve(present, centred).strength == RIDGE


@pytest.mark.parametrize("rows", [10, 40, 200])
def test_pure_noise_moves_the_weights_hardly_or_not_at_all(rows):
    """Targets that have nothing to do with the rows: one fold alone fits them, two see through it."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((1, rows, 20)), rng.standard_normal((rows, 30))
        present = np.zeros((1, 30, 20))
        alone = gathered(x, y).solve(present, True)
        fitted = in_folds(x, y, np.arange(rows) % 2).solve(present, True)
        assert fitted.strength >= 10 and np.abs(fitted.matrix).max() < 0.25 * np.abs(alone.matrix).max()
        assert fitted.strength < np.inf or (fitted.matrix == present).all()
        assert alone.error < 0.95 < fitted.error


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_exact_targets_are_met(groups, mean):
    rng = np.random.default_rng(2)
    x, y, present = problem(rng, groups, 400, noise=0.0, mean=mean)
    fitted = in_folds(x, y, np.arange(400) % 2).solve(present, True)
    assert fitted.strength == min(STRENGTHS) and fitted.error < 1e-4
    np.testing.assert_allclose(fitted.matrix, ridge_fit(x, y, present, True, min(STRENGTHS))[0], atol=2e-3)


def test_what_is_right_already_stays():
    rng = np.random.default_rng(3)
    x, present = rng.standard_normal((1, 300, 6)), rng.standard_normal((1, 4, 6))
    fitted = in_folds(x, x[0] @ present[0].T, np.arange(300) % 2).solve(present, True)
    np.testing.assert_allclose(fitted.matrix, present, atol=1e-5)
    assert fitted.error < 1e-6


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_one_fold_keeps_the_strength_that_is_tried_first(used, noise):
    """Also where others were made room for, but got no rows."""
    x, y, present = problem(np.random.default_rng(5), 2, 40, noise=noise)
    fitted = in_folds(x, y, np.full(40, used)).solve(present, True)
    assert fitted.strength == STRENGTHS[FIRST_TRIED] == RIDGE
    np.testing.assert_allclose(fitted.matrix, regression(x, y, present, True), atol=1e-3)
    assert fitted.error == pytest.approx(left_over(x, y, fitted.matrix, True), rel=1e-3, abs=1e-6)


def test_folds_of_unequal_size_count_by_their_rows():
    rng = np.random.default_rng(6)
    x, y, present = problem(rng, 1, 300, noise=2.0)
    fold_of = (np.arange(300) >= 280).astype(int)
    fitted = in_folds(x, y, fold_of).solve(present, True)
    assert fitted.error == pytest.approx(held_out_error(x, y, fold_of, present, True, fitted.strength), rel=1e-3)


def test_statistics_are_those_of_all_folds_together():
    x, y, present = problem(np.random.default_rng(7), 2, 101, mean=3.0)
    fitted = in_folds(x, y, np.arange(101) % 3, 3).solve(present, True)
    predicted = np.concatenate([rows @ m.T for rows, m in zip(x, fitted.matrix, strict=True)], axis=1)
    for found, values in ((fitted.wanted, y), (fitted.fit, predicted)):
        np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.variance, values.var(axis=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [np.zeros, lambda shape: np.full(shape, 3.0), lambda shape: np.full(shape, 1e-18)])
def test_folds_of_rows_that_do_not_vary(make):
    present = np.random.default_rng(8).standard_normal((1, 2, 4))
    fitted = in_folds(make((1, 20, 4)), np.ones((20, 2)), np.arange(20) % 2).solve(present, True)
    np.testing.assert_allclose(fitted.matrix, present)
    assert fitted.error == pytest.approx(0, abs=1e-6) and np.isfinite(fitted.condition)


@given(floor=st.integers(0, 7), first=st.integers(0, 6), slope=st.floats(0.1, 10), few=st.floats(0.1, 10))
def test_downhill_leads_to_the_floor_of_a_valley(floor, first, slope, few):
    errors = [slope * (floor - at) if at < floor else few * (at - floor) for at in range(8)]
    assert downhill(errors.__getitem__, range(8), first) == (floor, 0)


@pytest.mark.parametrize(("errors", "floor"), [([4, 5, 3, 2, 6, 0], 3), ([4, 5, 9, 0], 0), ([1, 2, 2, 0], 0)])
def test_downhill_climbs_no_hill_to_a_deeper_valley(errors, floor):
    assert downhill(errors.__getitem__, range(len(errors)), 1) == (floor, errors[floor])


def test_downhill_computes_no_error_twice():
    error = mock.Mock(side_effect=[5, 4, 3, 7].__getitem__)
    downhill(error, range(4), 0)
    assert sorted(call.args[0] for call in error.call_args_list) == [0, 1, 2, 3]


def test_single_precision_chooses_as_double_precision_does(monkeypatch):
    x, y, present = problem(np.random.default_rng(9), 1, 200, inputs=30, noise=3.0)
    exact = in_folds(x, y, np.arange(200) % 2).solve(present, True)
    monkeypatch.setattr(ridge_regression, "SINGLE_PRECISION_INPUTS", 10)
    rounded = in_folds(x, y, np.arange(200) % 2).solve(present, True)
    assert rounded.strength == exact.strength and rounded.error == pytest.approx(exact.error, rel=1e-3)
    np.testing.assert_allclose(rounded.matrix, exact.matrix, atol=1e-3)
