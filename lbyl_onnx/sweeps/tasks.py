"""What one worker does: a model at all its budgets, analysed and measured once."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from ..budgets import LATENCY
from ..calibration.user_samples import Source
from ..compression import CompressionResult, compress_prepared
from ..errors import LbylError
from ..evaluation.preparation import Preparation
from ..model.reading import load
from ..model.writing import save
from ..options import Options
from ..progress import Telling
from .pieces import MODELS, PIECES, Budgets, Piece, file_name, named, read_piece, write_piece

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One model and what is to be made of it. `budgets`: each with the key of its piece; `given`, `evaluation`: the
    samples of `compress`; `out`: the sweep's folder."""

    model: str
    budgets: tuple[tuple[str, Budgets], ...]
    options: Options
    given: Source
    evaluation: Source | None
    out: str


def perform(task: Task) -> None:
    """Make and record each piece that is not yet recorded. What cannot be made is recorded with the reason.

    Raises OSError where the model or the sweep's folder cannot be seen from here.
    """
    out = Path(task.out)
    for path in (Path(task.model), out / PIECES, out / MODELS):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder; all workers have to see models and results")
    missing = [(key, budgets) for key, budgets in task.budgets if read_piece(out, key) is None]
    if not missing:
        return
    try:
        source = load(task.model)
        prepared = Preparation(source, task.options, task.given, task.evaluation, Telling(None))
    except LbylError as error:
        for key, budgets in missing:
            write_piece(out, Piece(key, named(budgets), reason=str(error)))
        return
    for key, budgets in missing:
        started = time.perf_counter()
        try:
            result = compress_prepared(prepared, budgets, timed=is_timed(budgets))
        except LbylError as error:
            write_piece(out, Piece(key, named(budgets), reason=str(error)))
        else:
            _record(out, task.model, key, budgets, result)
        logger.info("%s: %s took %.1f s", source.name, named(budgets), time.perf_counter() - started)


def is_timed(budgets: Budgets) -> bool:
    """Whether plans for these budgets rest on times that are measured."""
    return any(budget.name == LATENCY for budget in budgets)


def _record(out: Path, model: str, key: str, budgets: Budgets, result: CompressionResult) -> None:
    """The model first: a piece that is recorded has one."""
    name = file_name(model, budgets, key)
    save(result, out / MODELS / name, force=True)
    write_piece(out, Piece(key, named(budgets), name, result.report))
