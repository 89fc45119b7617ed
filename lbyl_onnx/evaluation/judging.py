"""The samples that results are judged on: labelled ones where the user has them, else others than were measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..calibration.inputs import input_specs
from ..calibration.samples import Calibration, default_samples, is_made_up, unseen
from ..calibration.samples_used import SamplesUsed, samples_used
from ..calibration.user_samples import SampleSet, Source, check_source, open_samples, read_samples
from ..errors import UsageError, naming
from ..model.model import Model
from ..options import SampleOptions

LABELLED = "an .npz file with an array for each input and `labels`, or a folder with one sub-folder for each class"
NO_LABELS = (
    "has no labels for the classes of an output; expected an array `labels` in an .npz file, or a folder with one "
    "sub-folder for each class, named with its number where there are fewer"
)
DECIDING = 4
"""So many times as many made-up samples decide how much may go as are measured on by default: the narrower the interval
of what is lost, the more may."""
LEAST_DECIDING = 64
"""Of them that decide, however large outputs are."""
MAX_EVALUATED = 2048
"""Images of a folder that accuracies are measured on at most."""


@dataclass(frozen=True)
class Judging:
    """What a run of `model` is judged on: `evaluation`, labelled, or what `given` samples leave. `macs`: of the model,
    which decide how many are made up."""

    model: Model
    given: Source
    evaluation: Source | None
    options: SampleOptions
    macs: int = 0

    def check(self) -> None:
        """Raise UsageError, before the work begins, where the samples to evaluate on do not fit or have no labels."""
        if self.evaluation is not None:
            with naming("eval"):
                check_source(self.evaluation, LABELLED)
                given = open_samples(input_specs(self.model), self.evaluation, self.options, LABELLED)
                if given.take(np.arange(1)).labels is None:
                    raise UsageError(f"{given.source}: {NO_LABELS}", "eval")

    def deciding(self, answers: float = 0.0) -> SampleSet:
        """The same labelled samples, or made-up ones that are others than in the end: fewer where there are more
        `answers`, elements of output, than elements of input."""
        if self.evaluation is not None:
            return self.samples
        wanted = DECIDING * default_samples(self.model, input_specs(self.model), self.options, self.macs)
        count = min(wanted, max(int(wanted / max(answers, 1.0)), LEAST_DECIDING))
        return unseen(self.model, self.given, replace(self.options, seed=self.options.seed + 1), count=count)

    @cached_property
    def samples(self) -> SampleSet:
        """The user's labelled samples, or others that were not measured on."""
        if self.evaluation is None:
            return unseen(self.model, self.given, self.options, self.macs)
        with naming("eval"):
            options = replace(self.options, samples=None)
            return read_samples(input_specs(self.model), self.evaluation, options, LABELLED, MAX_EVALUATED)

    def used(self, calibration: Calibration | None, earlier: SamplesUsed) -> SamplesUsed:
        """The user's own samples that a run measures, those that it is judged on, and those used `earlier`."""
        measured = earlier if calibration is None else earlier | calibration.used
        if self.evaluation is None and is_made_up(self.given):
            return measured
        return measured if self.samples.made_up else measured | samples_used([self.samples.inputs])
