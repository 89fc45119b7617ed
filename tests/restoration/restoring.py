"""Models compressed with restoration from activations, and how far their outputs are from the original's."""

import numpy as np
from uniform import compress

from lbyl_onnx.calibration.inputs import input_specs
from lbyl_onnx.calibration.samples import calibrate
from lbyl_onnx.calibration.staged_run import CalibratedRun
from lbyl_onnx.calibration.synthetic import synthetic_inputs
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import RunOptions, SampleOptions


def compressed(model, ratio=0.4, **options):
    """The model after `compress` with its defaults, and the report."""
    result = compress(model, ratio, validation=False, **options)
    return result.compressed, result.report


def normal(model, samples, seed=0):
    """Standard normal values for the only input, whatever the model makes of it."""
    (spec,) = input_specs(model)
    shape = [size or 8 for size in spec.shape[1:]]
    return {spec.name: np.random.default_rng(seed).standard_normal((samples, *shape)).astype(spec.dtype)}


def made_up(model, samples, seed=0):
    """Synthetic inputs."""
    return synthetic_inputs(model, samples, SampleOptions(seed=seed))


def measured_on(model, calibration="auto", samples=64):
    """The samples that `compress` measures on."""
    batches = calibrate(model, calibration, SampleOptions(samples=samples)).batches
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def outputs(model, inputs):
    return [value.astype(np.float64) for value in run_batches(open_session(model), inputs)]


def sqnr(original, ours, inputs):
    """Signal to noise in dB of every output."""
    pairs = zip(outputs(original, inputs), outputs(ours, inputs), strict=True)
    return [10 * np.log10((old**2).sum() / max(((old - new) ** 2).sum(), 1e-300)) for old, new in pairs]


def assert_finite(model):
    for name, value in model.weights.items():
        assert value.dtype.kind not in "f" or np.isfinite(value).all(), name


def group_of(report, producer):
    return next(group for group in report.groups if producer in group.producers)


def settled(proto, samples=128, seed=7):
    """The model with running statistics as training would have left them."""
    model = load(proto)
    calibration = calibrate(model, "auto", SampleOptions(samples=samples, seed=seed))
    calibrated = CalibratedRun(model, calibration, RunOptions("cpu"))
    for node in model.proto.graph.node:
        if node.op_type == "BatchNormalization":
            calibrated.run.reach(node.output[0])
            for name, value in zip(node.input[3:5], calibrated.statistics[node.output[0]], strict=True):
                model.replace(name, value.astype(np.float32))
    calibrated.run.close()
    return model.to_proto()


def assert_restores(proto, ratio=0.5, better=True, calibration="auto", **options):
    """Finite, of the same interface, and no further from the original than without restoring."""
    model = load(proto)
    ours, report = compressed(model, ratio, calibration=calibration, samples=64, **options)
    plain, _ = compressed(model, ratio, calibration=calibration, samples=64, restore="none", **options)
    assert_finite(ours)
    inputs = made_up(model, 16, seed=1)
    session = open_session(ours)
    assert [v.type for v in session.get_outputs()] == [v.type for v in open_session(model).get_outputs()]
    restored, lost = sqnr(model, ours, inputs), sqnr(model, plain, inputs)
    assert np.isfinite(restored).all()
    if better:
        assert min(np.subtract(restored, lost)) > -0.1 and max(np.subtract(restored, lost)) > 1
    return model, ours, report


def block(graph, follow, space=(10, 10)):
    """Conv "producer" → `follow` → Conv "consumer" → output."""
    kernel = [3] * len(space)
    hidden = follow(graph, graph.conv(graph.input(("N", 3, *space)), 3, 12, kernel, name="producer"))
    return graph.model(graph.conv(hidden, 12, 6, kernel, name="consumer"))
