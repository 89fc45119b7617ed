"""Whether outputs tell samples apart, however they are cut into slices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lbyl_onnx.calibration.changes import Changes


def seen(rows, cuts=()):
    changes = Changes()
    for part in np.split(np.asarray(rows), sorted(cuts)):
        if len(part):
            changes.add(part, len(part))
    return changes


@given(
    rows=st.lists(st.sampled_from([0.0, 1.0, np.nan, np.inf]), min_size=1, max_size=8),
    cuts=st.sets(st.integers(1, 7), max_size=3),
)
def test_samples_that_differ_where_they_are_finite(rows, cuts):
    finite = [value for value in rows if np.isfinite(value)]
    alike = not finite or (len(set(finite)) == 1 and (len(finite) == len(rows) or rows[0] == finite[0]))
    found = seen(np.array(rows)[:, None], cuts)
    assert found.samples == len(rows)
    assert found.found == (not alike) and found.none == (alike and len(rows) > 1)


@given(seed=st.integers(0, 2**16), samples=st.integers(2, 12), mean=st.sampled_from([0.0, 1e4]), data=st.data())
def test_the_variation_is_what_the_mean_over_samples_leaves(seed, samples, mean, data):
    rows = mean + np.random.default_rng(seed).standard_normal((samples, 3, 2))
    cuts = data.draw(st.sets(st.integers(1, samples), max_size=3))
    expected = samples * rows.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(seen(rows, cuts).variation, expected, rtol=1e-6)


def test_the_variation_is_not_known_of_one_sample_or_of_sizes_that_differ():
    assert seen(np.ones((1, 3))).variation is None and seen(np.ones((2, 3))).variation == 0
    changes = seen(np.ones((2, 3)))
    changes.add(np.ones((2, 4)), 2)
    assert changes.variation is None


def test_values_that_are_not_finite_do_not_vary():
    rows = np.array([[np.nan, 1.0], [np.inf, 3.0]])
    assert seen(rows).variation == 2 * np.var([1.0, 3.0], ddof=1)


def test_one_sample_tells_nothing_yet():
    assert not seen(np.ones((1, 3))).none and seen(np.ones((2, 3))).none


def test_one_element_is_enough():
    rows = np.ones((4, 2, 3), np.int64)
    rows[3, 1, 2] = 2
    assert seen(rows, [2]).found


def test_values_that_do_not_follow_the_samples_are_one_row():
    changes = Changes()
    for _ in range(2):
        changes.add(np.arange(5), 2)
    assert changes.none and changes.samples == 2


def test_rows_of_other_sizes_differ():
    changes = Changes()
    changes.add(np.ones((1, 3)), 1)
    changes.add(np.ones((1, 2)), 1)
    assert changes.found


def test_scalars():
    changes = Changes()
    changes.add(np.float32(1), 4)
    changes.add(np.float32(2), 4)
    assert changes.found
