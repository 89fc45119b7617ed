"""Latencies of a sweep's results, one after the other in this process, when no worker is busy any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..calibration.samples import unseen
from ..calibration.synthetic import AUTO
from ..evaluation.advice import speed_warnings
from ..evaluation.latency import latencies
from ..model.reading import load
from ..model.session import feed_batches, open_session, rows_of
from ..options import RunOptions
from .pieces import MODELS, Piece


def timed(piece: Piece, model: str, out: Path, runtime: RunOptions) -> Piece:
    """The piece with the latencies of original and result, in turns on a made-up sample, and what to say of them."""
    report = piece.report
    assert report is not None and report.validation is not None and piece.file is not None
    original = load(model)
    samples = unseen(original, AUTO, report.options.samples, count=1)
    before, after = open_session(original, runtime), open_session(load(out / MODELS / piece.file), runtime)
    feed = next(feed_batches(before, samples.inputs, limit=1))
    took = latencies(before, after, feed, [])
    validation = replace(
        report.validation,
        latency_batch=rows_of(feed),
        latency_before_ms=took.medians[0],
        latency_after_ms=took.medians[1],
        latency_quantiles_ms=took.quantiles,
    )
    warnings = (*report.warnings, *speed_warnings(validation, report.options.prune))
    return replace(piece, report=replace(report, validation=validation, warnings=warnings))
