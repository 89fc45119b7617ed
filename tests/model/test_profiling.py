"""Kernels of small models, as onnxruntime's profiler tells them."""

import numpy as np
import pytest
from graphs import between

from lbyl_onnx.model.profiling import Kernel, _summing_to, profile
from lbyl_onnx.model.providers import block_of
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session
from lbyl_onnx.options import RunOptions

CPU = RunOptions("cpu", 1)


def test_kernels_of_a_run():
    model = load(between(lambda graph, hidden: graph.node("MaxPool", hidden, kernel_shape=[2, 2])))
    feed = {"x": np.ones((1, 3, 6, 3), np.float32)}
    found = profile(model, open_session(model, CPU), feed, CPU)
    assert {(1, 3, 6, 3), (1, 8, 5, 2)} <= {shape for kernel in found.kernels for shape in kernel.takes}
    assert (1, 4, 5, 2) in {shape for kernel in found.kernels for shape in kernel.makes}
    assert sum(kernel.milliseconds for kernel in found.kernels) == pytest.approx(found.milliseconds)
    assert found.milliseconds > 0 and found.reference > 0


@pytest.mark.parametrize(
    ("taken", "whole", "left"),
    [
        ([1.0, 3.0], 6.0, [2.0, 4.0]),
        ([2.0, 4.0], 4.0, [1.0, 3.0]),
        ([0.0, 10.0], 5.0, [0.0, 5.0]),
        ([], 5.0, []),
    ],
)
def test_what_profiling_took_is_spread_evenly(taken, whole, left):
    kernels = [Kernel(str(number), (), (), each) for number, each in enumerate(taken)]
    assert [kernel.milliseconds for kernel in _summing_to(whole, kernels)] == pytest.approx(left)


def test_the_block_is_a_power_of_two():
    assert block_of(CPU) in (8, 16)
