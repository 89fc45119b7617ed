"""Norms of operators against those of their matrices."""

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from lbyl_onnx import load
from lbyl_onnx.bounds.operators import Linear, overlap
from lbyl_onnx.model.session import open_session, run


def matrix(linear: Linear, pads: tuple[int, ...]) -> np.ndarray:
    """A convolution as a matrix: what it makes of each unit vector."""
    graph = Builder()
    weight = graph.constant(linear.weight)
    attributes = {"strides": linear.strides, "dilations": linear.dilations, "pads": pads}
    data = graph.input(("N", linear.weight.shape[1], *linear.space))
    session = open_session(load(graph.model(graph.node("Conv", data, weight, **attributes))))
    size = linear.weight.shape[1] * int(np.prod(linear.space))
    units = np.eye(size, dtype=np.float32).reshape(size, -1, *linear.space)
    (made,) = run(session, {"x": units})
    return made.reshape(size, -1).T.astype(float)


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    space = tuple(draw(st.integers(5, 7)) for _ in range(axes))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(2 * axes))
    outputs, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.standard_normal((outputs, inputs, *kernel)) + draw(st.sampled_from([0, 2]))
    weight = weight.astype(np.float32).astype(np.float64)
    return Linear(weight, np.arange(inputs), space, strides, dilations), pads


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_norms_of_convolutions_are_bounded(case):
    linear, pads = case
    whole = matrix(linear, pads)
    assert np.linalg.norm(whole, 2) <= linear.norm * (1 + 1e-5)
    channels = whole.reshape(len(whole), linear.weight.shape[1], -1)
    exact = np.array([np.linalg.norm(channels[:, each], 2) for each in range(channels.shape[1])])
    assert (exact <= linear.unit_norms * (1 + 1e-5)).all() and (linear.unit_norms <= linear.norm).all()


def test_coarser_bounds_hold_where_frequencies_are_too_many(monkeypatch):
    linear = Linear(np.ones((2, 3, 3, 3)), np.arange(3), (8, 8), (1, 1), (1, 1))
    fine = linear.norm, linear.unit_norms
    monkeypatch.setattr("lbyl_onnx.bounds.operators.MOST_NUMBERS", 0)
    coarse = linear.with_weight(linear.weight)
    exact = np.linalg.norm(matrix(linear, (1, 1, 1, 1)), 2)
    assert exact <= fine[0] <= coarse.norm and (fine[1] <= coarse.unit_norms).all()


def test_a_plain_convolution_is_bounded_closely():
    linear = Linear(np.ones((1, 1, 3, 3)), np.arange(1), (20, 20), (1, 1), (1, 1))
    assert np.linalg.norm(matrix(linear, (1, 1, 1, 1)), 2) > 0.95 * linear.norm
    assert linear.norm == pytest.approx(9)


def test_norms_of_matrices_are_exact():
    weight, units = np.random.default_rng(0).standard_normal((4, 6)), np.array([0, 0, 1, 1, 2, 2])
    linear = Linear(weight, units)
    assert linear.norm == pytest.approx(np.linalg.svd(weight)[1][0])
    assert linear.unit_norms == pytest.approx([np.linalg.svd(weight[:, units == unit])[1][0] for unit in range(3)])
    single = Linear(weight, np.arange(6))
    assert single.unit_norms == pytest.approx(np.linalg.norm(weight, axis=0))


@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "windows"),
    [((3,), (1,), (1,), 3), ((3,), (2,), (1,), 2), ((3,), (2,), (2,), 3), ((2, 2), (2, 2), (1, 1), 1)],
)
def test_windows_that_share_a_position(kernel, strides, dilations, windows):
    assert overlap(kernel, strides, dilations) == windows
