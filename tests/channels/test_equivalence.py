import numpy as np
import pytest

from lbyl_onnx.channels.equivalence import Labels


def test_fresh_labels_are_equal_to_no_other():
    labels = Labels()
    first, second = labels.fresh(3), labels.fresh(2)
    classes = labels.resolve()
    assert classes.count == 5
    assert len(set(classes.class_of[np.concatenate([first, second])])) == 5
    assert classes.reasons == {} and not classes.coupled.any()


def test_equality_is_transitive():
    labels = Labels()
    first, second, third = (labels.fresh(2) for _ in range(3))
    labels.equate(first, second)
    labels.equate(third, second)
    classes = labels.resolve()
    assert classes.count == 2
    np.testing.assert_array_equal(classes.class_of[first], classes.class_of[third])


def test_equate_broadcasts():
    labels = Labels()
    grid = labels.fresh(6).reshape(2, 3)
    labels.equate(grid, grid[:1])
    assert labels.resolve().count == 3


def test_arrays_that_do_not_broadcast_are_refused():
    labels = Labels()
    with pytest.raises(ValueError):
        labels.equate(labels.fresh(2), labels.fresh(3))


def test_a_class_is_frozen_with_the_first_of_its_labels_and_reasons():
    labels = Labels()
    first, second = labels.fresh(2), labels.fresh(2)
    labels.freeze(second[1:], "is an output")
    labels.freeze(first, "is normalised")
    labels.freeze(None, "is no axis")
    labels.equate(first, second)
    classes = labels.resolve()
    found = [classes.reasons[index] for index in classes.class_of[first].tolist()]
    assert found == ["is normalised", "is an output"]


def test_coupling_spreads_over_the_class():
    labels = Labels()
    first, second = labels.fresh(2), labels.fresh(2)
    labels.equate(first, second)
    labels.couple(second[:1])
    labels.couple(None)
    classes = labels.resolve()
    assert classes.coupled[classes.class_of[first]].tolist() == [True, False]


def test_no_labels_at_all():
    classes = Labels().resolve()
    assert classes.count == 0 and classes.class_of.shape == (0,)


def test_labels_that_are_known_to_stay():
    labels = Labels()
    frozen, free = labels.fresh(3), labels.fresh(2)
    assert not labels.is_frozen(frozen)
    labels.freeze(frozen, "is normalised")
    assert labels.is_frozen(frozen[1:]) and not labels.is_frozen(free)
    assert not labels.is_frozen(np.concatenate([frozen, free]))
