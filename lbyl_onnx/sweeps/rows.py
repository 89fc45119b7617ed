"""A sweep as a table: one flat row for each model and budget."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..evaluation.json_form import to_json
from ..evaluation.records import Report, Validation
from .pieces import MODELS, Piece

DONE, REFUSED, FAILED = "done", "refused", "failed"


@dataclass(frozen=True)
class Row:
    """One model at one budget.

    `status`: "done", "refused" (the model cannot be read, or not be brought to the budget) or "failed" (a worker broke
    off: the next run of the sweep tries again), both for a `reason`. `file`: the result, from the sweep's folder.
    `macs_share`: of the original's that stay; `divergence`: of the outputs, see `Validation`; `sqnr_db` and `told_db`
    (`OutputComparison`): of the worst; `expected_loss`, its interval and `agreement`: in [0, 1], of the classifying
    output that loses most, None where there is none.
    `seconds`: of work, preparation included. `key`: names the record of the piece.
    """

    model: str
    budget: str
    status: str
    reason: str | None = None
    file: str | None = None
    macs_share: float | None = None
    macs_before: int | None = None
    macs_after: int | None = None
    parameters_before: int | None = None
    parameters_after: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    latency_before_ms: float | None = None
    latency_after_ms: float | None = None
    divergence: float | None = None
    expected_loss: float | None = None
    expected_loss_low: float | None = None
    expected_loss_high: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    told_db: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    verdict: str | None = None
    seconds: float | None = None
    key: str | None = None


@dataclass(frozen=True, repr=False)
class Sweep:
    """What `sweep` found. `out`: its folder; `rows`: by model, then by budget, in the order they were given in."""

    out: str
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in (DONE, REFUSED, FAILED))
        return f"<Sweep in {self.out}: {counts}>"

    def count(self, status: str) -> int:
        """Rows of a status."""
        return sum(row.status == status for row in self.rows)

    def to_json(self) -> str:
        """This record as indented JSON."""
        return to_json(self)

    def to_csv(self) -> str:
        """The rows as comma-separated values below their names, empty where there is none."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue().rstrip("\n")


def row_of(model: str, budget: str, piece: Piece | None, failure: str | None = None) -> Row:
    """The row of a piece, or of none because of a `failure`."""
    if piece is None:
        return Row(model, budget, FAILED, failure)
    if piece.report is None:
        return Row(model, budget, REFUSED, piece.reason, key=piece.key)
    report, validation = piece.report, piece.report.validation
    assert validation is not None and piece.file is not None
    return Row(
        model,
        budget,
        DONE,
        file=str(Path(MODELS, piece.file)),
        **_sizes(report),
        **_answers(validation),
        latency_before_ms=validation.latency_before_ms if validation.timed else None,
        latency_after_ms=validation.latency_after_ms if validation.timed else None,
        divergence=validation.divergence,
        sqnr_db=min((output.sqnr_db for output in validation.outputs), default=None),
        told_db=min((output.told_db for output in validation.outputs), default=None),
        accuracy_before=validation.accuracy_before,
        accuracy_after=validation.accuracy_after,
        verdict=validation.verdict.level if validation.verdict else None,
        seconds=report.seconds,
        key=piece.key,
    )


def by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each model, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    return found


def _sizes(report: Report) -> dict[str, Any]:
    before, after = report.input, report.output
    return {
        "macs_share": after.macs / before.macs,
        **{"macs_before": before.macs, "macs_after": after.macs},
        **{"parameters_before": before.parameters, "parameters_after": after.parameters},
        **{"bytes_before": before.bytes, "bytes_after": after.bytes},
    }


def _answers(validation: Validation) -> dict[str, Any]:
    found = [output.answers for output in validation.outputs if output.answers is not None]
    if not found:
        return {}
    worst = max(found, key=lambda answers: answers.expected_loss)
    low, high = worst.expected_loss_interval
    return {
        **{"expected_loss": worst.expected_loss, "expected_loss_low": low, "expected_loss_high": high},
        "agreement": worst.agreement,
    }
