"""Two models on samples that nothing was fitted to, and what follows for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ...calibration.inputs import InputSpec, input_specs
from ...calibration.runnable_sizes import at_runnable_sizes
from ...calibration.samples import unseen
from ...calibration.samples_used import SamplesUsed, read_samples_used, sample_hashes
from ...calibration.synthetic import AUTO
from ...calibration.user_samples import SampleSet, alike, read_samples
from ...errors import ModelError, UsageError, ValidationFailed, counted, naming
from ...model.graph import GraphIndex
from ...model.model import Model
from ...model.providers import resolve
from ...model.reading import load
from ...model.session import feed_batches, open_session, rows_of
from ...options import Normalisation, RunOptions, SampleOptions
from ..advice import unused_beside_data
from ..comparison import Comparison
from ..json_form import to_json
from ..output_errors import OutputErrors
from ..records import Report
from ..validation import EXPECTED, Data, Source, check_interface
from .gaps import FREE, NO_NUMBERS, NO_ROWS, OutputGaps, bounding_operator
from .statements import Gaps, Statement, state

MOST_IMAGES = 4096
"""Images of a folder that are read by default."""
MADE_UP_FROM = 10**6
"""Added to the seed of made-up samples, so that they are others than a compression makes up."""
PREMISES = (
    "the samples were drawn independently of each other from the distribution that new inputs come from",
    "none of them was used to train the original, to compress it, or to choose between results",
)
MADE_UP = (
    "that real inputs are like made-up ones: they are not, and pictures among these are crops of the same few, so no "
    "certificate for real inputs follows"
)

NOTHING_REPORTED = "the report names no samples that the compression was given"
NOTHING_NAMED = "B names no samples that it was fitted to: it was given none, or was made by something else"


@dataclass(frozen=True, repr=False)
class Certificate:
    """What `certify` found: `statements`, all of which hold together, for new inputs of the distribution that the
    `samples` different samples of `data` come from, with a probability of at least `confidence` over the draw of these
    samples. `made_up`: whether nobody gave them, so that this says nothing of real inputs; `premises`: what it rests on
    and cannot be checked here; `record`: what was known of the samples that the compression used."""

    original: str
    compressed: str
    data: str
    samples: int
    made_up: bool
    confidence: float
    statements: tuple[Statement, ...]
    premises: tuple[str, ...]
    record: str
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        claimed = sum(statement.bound is not None for statement in self.statements)
        return f"<Certificate: {counted(claimed, 'statement')} at {self.confidence:.4g} from {self.samples} samples>"

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)


def certify(
    original: Source,
    compressed: Source,
    data: Data = None,
    confidence: float = 0.99,
    run: Report | str | Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    provider: str = "auto",
    custom_ops_library: str | None = None,
) -> Certificate:
    """Bounds on how far a compressed model is from its original on new inputs, from independent samples of them.

    `data`: samples as `validate` takes them, none of which the compression may have seen: those whose hashes stand in
    the compressed model's metadata, or in `run`, the report of the run or a file of it, are refused, and equal ones are
    counted once. None: `samples` made-up ones from `seed`, from which nothing follows for real inputs. `confidence`, in
    [0.5, 1): the probability, over the draw of the samples, with which all statements hold together. For each output:
    the share of inputs whose top-1 changes and, with `labels`, the loss of accuracy, where it has classes; the mean of
    the gap, where that has a bound; and a quantile of the gap (`OutputGaps` says what the gap is, `intervals` what the
    bounds rest on).

    Raises UsageError for data that does not fit or was used, ModelError where the original does not load or run,
    ValidationFailed where the compressed model does not, or has other inputs, outputs or shapes.
    """
    check_confidence(confidence)
    options = SampleOptions(samples=samples, shapes=shapes or {}, normalisation=normalisation, seed=seed)
    with naming("original"):
        before = load(original)
    try:
        with naming("compressed"):
            after = load(compressed)
    except ModelError as error:
        raise ValidationFailed(f"the compressed model does not load: {error}") from error
    runtime = RunOptions(provider, custom_ops_library=custom_ops_library)
    evaluation, warnings = _samples(input_specs(before), before, data, options, runtime)
    used = read_samples_used(after) | read_samples_used(before) | _samples_of(run)
    _refuse_used(evaluation, used)
    gaps, without, compared = measure_gaps(before, after, evaluation, runtime)
    return Certificate(
        original=before.name,
        compressed=after.name,
        data=evaluation.source,
        samples=compared,
        made_up=data is None,
        confidence=confidence,
        statements=(*state(gaps, compared, confidence, sum(each.reason == FREE for each in without)), *without),
        premises=(*PREMISES, *((MADE_UP,) if data is None else ())),
        record=_record(used, run is not None),
        warnings=tuple(warnings + unused_beside_data(data, options)),
    )


def check_confidence(confidence: float) -> None:
    """Raise UsageError where it is none."""
    if not isinstance(confidence, int | float) or not 0.5 <= confidence < 1:
        raise UsageError(f"is {confidence}; expected a probability from 0.5 to below 1, such as 0.99", "confidence")


def measure_gaps(
    before: Model, after: Model, evaluation: SampleSet, runtime: RunOptions
) -> tuple[list[Gaps], list[Statement], int]:
    """The gaps of all outputs on samples; statements that nothing is claimed for the others, and why; and how many
    samples were compared."""
    runtime = resolve(runtime)
    sessions = open_session(before, runtime), _opened(after, runtime)
    check_interface(*sessions)
    index = GraphIndex(before)
    names = [value.name for value in sessions[0].get_outputs()]
    collectors = {name: OutputGaps(name, operator=bounding_operator(index, name)) for name in names}
    outputs: dict[str, OutputErrors] = dict(collectors)
    least = rows_of(next(feed_batches(sessions[0], evaluation.inputs, limit=1)))
    comparison = Comparison(evaluation, least, outputs)
    comparison.run(*sessions)
    found, without = [], []
    for name, collector in collectors.items():
        if name in comparison.free or not collector.by_sample or not collector.gaps:
            why = FREE if name in comparison.free else NO_NUMBERS if collector.by_sample else NO_ROWS
            without.append(Statement("gap", name, "any", reason=why))
            continue
        labels = evaluation.labels if name == comparison.answering else None
        found.append(collector.collected(None if labels is None else labels[: comparison.samples]))
    return found, without, comparison.samples


def _opened(model: Model, runtime: RunOptions) -> ort.InferenceSession:
    try:
        return open_session(model, runtime)
    except ModelError as error:
        raise ValidationFailed(f"the compressed model does not load: {error}") from error


def _samples(
    specs: Sequence[InputSpec], model: Model, data: Data, options: SampleOptions, runtime: RunOptions
) -> tuple[SampleSet, list[str]]:
    """Different samples, and what to tell of them."""
    if data is None:
        if options.samples is None:
            message = "is needed: an .npz file with an array for each input, or a folder of images; or --samples N"
            raise UsageError(f"{message} made-up ones, from which nothing follows for real inputs", "data")
        made_up = replace(at_runnable_sizes(model, options, runtime), seed=options.seed + MADE_UP_FROM)
        return _different(specs, unseen(model, AUTO, made_up, count=options.samples))
    with naming("data"):
        return _different(specs, read_samples(specs, data, options, EXPECTED, MOST_IMAGES))


def _different(specs: Sequence[InputSpec], given: SampleSet) -> tuple[SampleSet, list[str]]:
    """Each sample once."""
    hashes = np.array(sample_hashes(given.inputs))
    first = np.sort(np.unique(hashes, return_index=True)[1])
    repeated = len(hashes) - len(first)
    if not repeated:
        return given, []
    if not alike(specs):
        told = f"{repeated} of {counted(len(hashes), 'sample')} repeat others; leave them out"
        raise UsageError(f"{given.source}: {told}")
    inputs = {
        name: array[first] if array.ndim and len(array) == len(hashes) else array
        for name, array in given.inputs.items()
    }
    told = (
        f"{repeated} of {counted(len(hashes), 'sample')} repeat others and count once; where equal inputs are no "
        "copies but occur by chance, as among few possible ones, the samples left are not drawn as new inputs are"
    )
    labels = None if given.labels is None else given.labels[first]
    return replace(given, inputs=inputs, labels=labels), [told]


def _samples_of(run: Report | str | Path | None) -> SamplesUsed:
    """What the report of a run says that it used. Raises UsageError where there is none."""
    if run is None or isinstance(run, Report):
        return SamplesUsed() if run is None else run.samples
    try:
        return Report.from_json(Path(run).read_text(encoding="utf-8")).samples
    except OSError as error:
        raise UsageError(f"{run}: {error.strerror or error}; expected what compress --report wrote", "run") from error
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"{run} is no report ({why}); expected what compress --report wrote", "run") from error


def _refuse_used(evaluation: SampleSet, used: SamplesUsed) -> None:
    """Raise UsageError where a sample was used by the compression."""
    hashes = sample_hashes(evaluation.inputs)
    known = len(set(hashes) & set(used.hashes))
    if known:
        raise UsageError(
            f"{evaluation.source}: {known} of {counted(len(hashes), 'sample')} were used in compression, and what was "
            "fitted to them says too little of new ones; give samples that it has not seen",
            "data",
        )


def _record(used: SamplesUsed, told: bool) -> str:
    """What was known of the samples that the compression used."""
    if not used.count:
        return NOTHING_REPORTED if told else NOTHING_NAMED
    known = "" if used.complete else f", of which {len(used.hashes):,} can be told"
    return f"none is among the {counted(used.count, 'sample')} that compression used{known}"
