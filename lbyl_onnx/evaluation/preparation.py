"""What all results of a model share: its analysis, the samples, and the planner that knows what its units are worth."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..calibration.runnable_sizes import at_runnable_sizes, sizes_found
from ..calibration.samples import Calibration, calibrate, is_made_up
from ..calibration.user_samples import Source
from ..errors import MeasurementFailed, ModelError, UsageError, counted
from ..model.initializers import unshare
from ..model.model import Model
from ..model.session import open_session, run
from ..options import Options
from ..progress import Telling
from ..restoration.methods import restoration_named
from ..selection.criteria import criterion_named
from ..selection.planner import Planner
from .advice import option_warnings
from .inspection import analyse_for, file_report
from .judging import Judging

logger = logging.getLogger(__name__)

CRITERION = "l2"
"""Stands in where activations cannot be measured."""


class Preparation:
    """A model that is analysed and has its samples, for results within any budgets.

    `source`: the model as it was given, `analysis` that of a copy in which no vector has two readers, whose `origins`
    are known; `before`: its size; `reasons`: why groups stay whole, by group; `calibration`: None where nothing is
    measured; `measured`: whether it told anything so far; `fallbacks` and `warnings`: sentences of the report;
    `seconds`: what all of this took. Raises as `compress` does.
    """

    def __init__(
        self, source: Model, options: Options, given: Source, evaluation: Source | None, telling: Telling
    ) -> None:
        started = time.perf_counter()
        named = options.samples.shapes
        options = replace(options, samples=at_runnable_sizes(source, options.samples, options.run))
        self.source, self.options, self.telling = source, options, telling
        judging = Judging(source, given, evaluation, options.samples)
        self.criterion = criterion_named(options.prune.criterion)
        self.restoration = restoration_named(options.prune.restore)
        self.measured = False
        self.fallbacks: list[str] = []
        self.warnings: list[str] = option_warnings(options) + sizes_found(named, options.samples.shapes)
        judging.check()
        telling.stage("analysing")
        working, self.origins = unshare(source)
        self.analysis, self.reasons = analyse_for(working, options, self.restoration)
        free = sum(reason is None for reason in self.reasons)
        logger.info("%s: units may go in %d of %s", source.name, free, counted(len(self.reasons), "group"))
        self.before = file_report(self.analysis, np.ones(self.analysis.classes.count, bool), source)
        self.judging = replace(judging, macs=self.before.macs)
        self.calibration = self._sample()
        self.seconds = time.perf_counter() - started

    @cached_property
    def planner(self) -> Planner:
        """What makes plans, measured when it is first asked for; by weights alone where activations cannot be."""
        started = time.perf_counter()
        self.telling.stage("choosing")
        prune, runtime = self.options.prune, self.options.run
        try:
            found = Planner(self.analysis, self.reasons, prune, runtime, self.calibration, self.telling.layer)
            self.measured |= self.criterion.needs_samples
        except MeasurementFailed as error:
            self.fallbacks.append(self.without_samples(CRITERION, error))
            prune = replace(prune, criterion=CRITERION, allocation="uniform")
            found = Planner(self.analysis, self.reasons, prune, runtime, None)
        self.seconds += time.perf_counter() - started
        return found

    def without_samples(self, stand_in: str, error: MeasurementFailed) -> str:
        """The sentence that tells of a strategy that stands in where activations cannot be measured. Raises UsageError
        where it is the user's samples that the model does not take."""
        calibration = self.calibration
        if calibration is not None and not calibration.synthetic:
            session = open_session(self.source, self.options.run)
            try:
                for batch in calibration.batches:
                    run(session, batch)
            except ModelError as reason:
                message = f"the model does not take the calibration samples ({calibration.source}): {reason}"
                raise UsageError(message) from reason
        return f"activations cannot be measured ({error}); {stand_in} was used instead"

    def _sample(self) -> Calibration | None:
        """Samples, where a strategy or the report needs some."""
        restore, criterion = self.restoration.name, self.criterion.name
        if not (self.criterion.needs_samples or self.restoration.needs_samples or self.options.layer_errors):
            if not is_made_up(self.judging.given):
                self.warnings.append(
                    f"the calibration samples are not used by --restore {restore} with --criterion {criterion}"
                )
            elif self.options.samples.samples is not None:
                self.warnings.append(
                    f"--samples has no effect: --restore {restore} with --criterion {criterion} measures nothing"
                )
            return None
        self.telling.stage("sampling")
        options = self.options
        found = calibrate(self.analysis.model, self.judging.given, options.samples, self.before.macs, options.run)
        self.warnings += found.warnings
        logger.info("measuring on %s", found.source)
        return found
