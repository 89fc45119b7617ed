"""A sweep as a page: a small picture for each model, all on the same axes, and its rows below."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from ..calibration.changes import energy_share
from ..evaluation.verdict import DECIBELS, LOSSES
from ..model.writing import write_whole
from .rows import DONE, Row, Sweep, by_model

logger = logging.getLogger(__name__)

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
TICKS = 5
WORSE = tuple(sorted(100 * loss for loss, _ in LOSSES if loss > 0))
"""Points of accuracy from which on a result is worn, damaged, ruined."""
NOISIER = tuple(sorted(100 * energy_share(decibels) for decibels, _ in DECIBELS if math.isfinite(decibels)))
"""The same in per cent of what tells samples apart."""


@dataclass(frozen=True)
class Mark:
    """A place in a picture: pixels along an axis, or of a point, and what stands there."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One model. `curve`: its budgets from the original on, from light to heavy; `across`, `up`: ticks of the axes;
    `unit`: of the vertical one; `rows`: all that is known."""

    title: str
    unit: str
    curve: tuple[Mark, ...]
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    rows: tuple[Row, ...]

    @property
    def line(self) -> str:
        """The curve as an SVG polyline's points."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.curve)


def write(sweep: Sweep, path: Path) -> None:
    """The page as one file without references to others; none, and a warning, where jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        logger.warning("no page was written: it needs jinja2; pip install 'lbyl-onnx[report]' and run the sweep again")
        return
    loader = jinja2.PackageLoader(__package__, ".")
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "floor": HEIGHT - BOTTOM}
    text = template.get_template("page.html").render(sweep=sweep, charts=charts(sweep), **size)
    write_whole({path: f"{text}\n".encode()})


def charts(sweep: Sweep) -> list[Chart]:
    """A chart for each model, those of classifiers in points of accuracy, others in per cent of what tells samples
    apart."""
    models = by_model(sweep.rows)
    done = {model: [row for row in rows if row.status == DONE] for model, rows in models.items()}
    least = min((row.macs_share or 0 for rows in done.values() for row in rows), default=0.5)
    most = {kind: 0.0 for kind in (True, False)}
    for rows in done.values():
        for row in rows:
            most[_classifies(row)] = max(most[_classifies(row)], _lost(row))
    found = []
    for model, rows in models.items():
        classifies = any(map(_classifies, rows))
        limits = WORSE if classifies else NOISIER
        top = max(1.1 * most[classifies], limits[0])
        origin = Mark(_across(1, least), _up(0, top), "the original")
        points = [
            Mark(_across(row.macs_share or 0, least), _up(_lost(row), top), f"{row.budget}: {_lost(row):.3g}")
            for row in sorted(done[model], key=lambda row: -(row.macs_share or 0))
        ]
        shares = [1 - tick * (1 - least) / (TICKS - 1) for tick in range(TICKS)]
        heights = [0.0, *(limit for limit in limits if limit <= top)]
        found.append(
            Chart(
                Path(model).stem,
                "points of accuracy expected to be lost" if classifies else "error, % of what tells samples apart",
                (origin, *points),
                tuple(Mark(_across(share, least), HEIGHT - BOTTOM, f"{share:.2f}") for share in shares),
                tuple(Mark(LEFT, _up(height, top), f"{height:.3g}") for height in heights),
                tuple(rows),
            )
        )
    return found


def _classifies(row: Row) -> bool:
    return row.expected_loss is not None


def _lost(row: Row) -> float:
    """Points of accuracy, or per cent of what tells samples apart."""
    if row.expected_loss is not None:
        return 100 * row.expected_loss
    return 0.0 if row.told_db is None else 100 * energy_share(row.told_db)


def _across(share: float, least: float) -> float:
    return LEFT + (1 - share) / max(1 - least, 1e-9) * (WIDTH - LEFT - RIGHT)


def _up(lost: float, top: float) -> float:
    """Square roots, so that small losses can be told apart beside large ones."""
    return HEIGHT - BOTTOM - (max(lost, 0.0) / top) ** 0.5 * (HEIGHT - BOTTOM - TOP)
