"""Two models side by side in onnxruntime: how far the outputs differ, how accurate and how fast each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..calibration.inputs import input_specs
from ..calibration.runnable_sizes import at_runnable_sizes
from ..calibration.samples import unseen
from ..calibration.synthetic import AUTO
from ..calibration.user_samples import SampleSet, read_samples
from ..errors import ModelError, ValidationFailed, naming
from ..model.model import Model
from ..model.providers import resolve
from ..model.reading import load
from ..model.session import feed_batches, open_session, rows_of
from ..model.tensors import is_floating
from ..options import Normalisation, RunOptions, SampleOptions
from .advice import unused_beside_data
from .comparison import Comparison
from .latency import UNTIMED, latencies
from .records import Validation
from .verdict import verdict

Source = str | Path | onnx.ModelProto | Model
Data = str | Path | Mapping[str, np.ndarray] | None

EXPECTED = "an .npz file with an array for each input, and perhaps one of labels, or a folder of images"


def validate(
    original: Source,
    compressed: Source,
    data: Data = None,
    provider: str = "auto",
    samples: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    custom_ops_library: str | None = None,
) -> Validation:
    """Runs both models on the same inputs and compares every tensor output.

    Outputs are compared slice by slice, so any number of samples fits in memory; elements that are not finite in the
    original are left out of the errors, and so are outputs whose sizes follow values (detections) where they differ.
    Where the model's batch axis is fixed to B, samples beyond a multiple of B are left out. Latencies are medians of
    alternating runs of one sample, or one batch of B: those of the comparison where it takes no more at once, and as
    many again of the first sample as LATENCY_SECONDS allow.

    Args:
        original: a file or a model in memory.
        compressed: the one to compare with it, of the same inputs and outputs.
        data: an .npz file, or a mapping, with one array for each model input, first axis = samples, as the model
            expects them, and optionally `labels`, integers of shape (samples,), which give top-1 accuracies on the
            first output that looks like classes (floating point, samples x K with K >= 2); or a folder of images,
            labelled where they lie in one sub-folder for each class. None: samples made up, others than `compress`
            measures on.
        provider: onnxruntime's, "auto", "cpu" or "cuda".
        samples: how many at most (None: of made-up ones 16 to 128, of images 512, else all).
        seed: of made-up samples.
        shapes: sizes of inputs with dynamic axes, by name, for made-up samples and images.
        normalisation: scaling of images (None: ImageNet's for three channels).
        custom_ops_library: a shared library of operators that the models need.

    Raises:
        UsageError: the data does not fit the model.
        ModelError: the original does not load or run.
        ValidationFailed: the compressed model does not, has other inputs, outputs or shapes, or is not finite where
            the original is.
    """
    options = SampleOptions(samples=samples, shapes=shapes or {}, normalisation=normalisation, seed=seed)
    runtime = RunOptions(provider, custom_ops_library=custom_ops_library)
    with naming("original"):
        before = load(original)
    if data is None:
        evaluation = unseen(before, AUTO, at_runnable_sizes(before, options, runtime), count=samples)
    else:
        with naming("data"):
            evaluation = read_samples(input_specs(before), data, options, EXPECTED)
    return replace(compare(before, compressed, evaluation, runtime), warnings=tuple(unused_beside_data(data, options)))


def compare(
    original: Model, compressed: Source, evaluation: SampleSet, runtime: RunOptions, timed: bool = True
) -> Validation:
    """The same on given samples; without `timed`, latencies are not a number."""
    runtime = resolve(runtime)
    before = open_session(original, runtime)
    try:
        with naming("compressed"):
            result = load(compressed)
        after = open_session(result, runtime)
    except ModelError as error:
        raise ValidationFailed(f"the compressed model does not load: {error}") from error
    check_interface(before, after)
    feed = next(feed_batches(before, evaluation.inputs, limit=1))
    comparison = Comparison(evaluation, rows_of(feed))
    comparison.run(before, after)
    took = latencies(before, after, feed, comparison.seconds) if timed else UNTIMED
    outputs = tuple(errors.result() for errors in comparison.outputs.values() if not errors.silent)
    accuracies = comparison.accuracy("before"), comparison.accuracy("after")
    return Validation(
        provider=runtime.provider,
        data=evaluation.source,
        samples=comparison.samples,
        outputs=outputs,
        free_outputs=tuple(sorted(comparison.free)),
        silent_outputs=tuple(name for name, errors in comparison.outputs.items() if errors.silent),
        latency_batch=rows_of(feed),
        latency_before_ms=took.medians[0],
        latency_after_ms=took.medians[1],
        accuracy_before=accuracies[0],
        accuracy_after=accuracies[1],
        verdict=verdict(outputs, accuracies),
        latency_quantiles_ms=took.quantiles,
    )


def check_finite(original: Model, compressed: Model) -> None:
    """Raise ValidationFailed where a weight has left its type's range."""
    for name, array in compressed.weights.items():
        before = original.weights.get(name)
        if before is not None and is_floating(array) and array is not before:
            ours = array.astype(np.float32)
            if not np.isfinite(ours).all() and np.isfinite(before.astype(np.float32)).all():
                raise ValidationFailed(
                    f"weight {name!r} overflows {array.dtype} after restoring; use --restore none or larger --lambda2"
                )


def check_interface(before: ort.InferenceSession, after: ort.InferenceSession) -> None:
    """Raise ValidationFailed where two models have other inputs or outputs."""
    sides = {
        "inputs": (before.get_inputs(), after.get_inputs()),
        "outputs": (before.get_outputs(), after.get_outputs()),
    }
    for kind, (expected, found) in sides.items():
        old, new = ({value.name: value.type for value in values} for values in (expected, found))
        if old != new:
            raise ValidationFailed(f"the {kind} differ: the original has {old}, the compressed model {new}")
