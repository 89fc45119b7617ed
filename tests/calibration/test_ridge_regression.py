"""Ridge regression from streamed moments against the same regression solved from all rows at once."""

from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx.calibration import ridge_regression
from lbyl_onnx.calibration.ridge_regression import RowMoments
from lbyl_onnx.calibration.statistics import channel_statistics, within

RIDGE = 1e-2
"""What `solve` takes by default."""


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
    """The fit stays near the present weights."""
    present = np.array([[1.0, -2.0, 0.5]])
    gram = np.full((3, 3), value)
    matrix, inverse_condition, ridge = ridge_regression._solve(gram, np.zeros((1, 3)), present, RIDGE)
    assert ridge > 0 and 0 <= inverse_condition <= 1
    np.testing.assert_allclose(matrix @ (gram + ridge * np.eye(3)), ridge * present, rtol=1e-6, atol=1e-9)


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
