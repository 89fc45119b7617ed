"""`sweep`: every model at every budget, what was finished before left as it is."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from ..budgets import budgets
from ..calibration.samples import EXPECTED
from ..calibration.synthetic import AUTO
from ..calibration.user_samples import Source, check_source, source_name
from ..errors import LbylError, UsageError, article
from ..model.providers import resolve
from ..model.writing import write_whole
from ..options import Normalisation, Options, PruneOptions, RunOptions, SampleOptions, check_whole
from . import page
from .clock import timed
from .executors import executor
from .pieces import MODELS, PIECES, Budgets, key_of, model_digest, named, read_piece, samples_digest, write_piece
from .rows import Row, Sweep, row_of
from .tasks import Task, is_timed, perform

TABLE, PAGE = "sweep.csv", "sweep.html"
DRAFTS = ".lbyl-onnx-*"
"""What a worker that was killed while it wrote leaves behind."""
CROWDED = "is timed, which other workers would disturb; leave out jobs and scheduler, or sweep it on its own"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep is. `done` of `total` pieces are finished; `row`: the last of them; `timing`: whether all are made
    and latencies are being measured."""

    done: int
    total: int
    row: Row
    timing: bool = False


def sweep(
    models: Sequence[str | Path],
    targets: Sequence[Mapping[str, float | str]],
    out: str | Path,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    scope: str = "chains",
    round_to: int | None = None,
    include: str | None = None,
    exclude: str | None = None,
    calibration: Source = AUTO,
    samples: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    normalisation: Normalisation | None = None,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    custom_ops_library: str | None = None,
    evaluation: Source | None = None,
    progress: Callable[[SweepProgress], None] | None = None,
) -> Sweep:
    """Compress every model for every budget, and write a table (sweep.csv), a page (sweep.html, with jinja2 installed),
    the models and the record of each into the folder `out`.

    Each model is analysed and measured once for all its budgets, in a process of its own. What is recorded in `out`
    already, for the same contents of model and samples, options and version, is not done again, so that a sweep that
    was interrupted goes on when it is started again. A model that cannot be read, or not be brought to a budget, is a
    row with the reason.

    Latencies are measured at the end, in this process, when nothing else runs. Therefore results are not planned again
    where they are not faster, as `compress` does; only budgets that hold a latency are planned by times, one model
    after the other. What is not described here is as in `compress`.

    Args:
        models: files.
        targets: budgets, each a mapping as in `compress`, of which all entries hold together.
        out: a folder; it is made where it is not there.
        jobs: processes at a time (None: one for each core, at most one for each model, and one with a latency among the
            targets). Each gets its share of the cores.
        scheduler: the address of a Dask scheduler whose workers do the work, in place of `jobs`; they have to see
            models, samples and `out` under the same paths. Each task there gets one thread, unless `threads` says more.
        progress: called with a `SweepProgress` for each piece.

    Raises:
        UsageError: an option is wrong.
    """
    asked = _asked(models, targets)
    crowd = jobs not in (None, 1) or scheduler is not None
    if any(map(is_timed, asked)) and crowd:
        raise UsageError(f"latency {CROWDED}", "target")
    if jobs is not None:
        check_whole("jobs", jobs, 1)
        if scheduler is not None:
            raise UsageError("is the number of processes here; leave it out with a scheduler", "jobs")
    check_source(calibration, EXPECTED)
    options = Options(
        PruneOptions(scope=scope, round_to=round_to, include=include, exclude=exclude, seed=seed),
        SampleOptions(source_name(calibration), samples, shapes or {}, normalisation, seed),
        resolve(RunOptions(provider, threads, custom_ops_library)),
        evaluation=None if evaluation is None else source_name(evaluation),
    )
    folder = _made(Path(out))
    paths = list(dict.fromkeys(map(str, models)))
    return _Sweep(paths, asked, options, calibration, evaluation, folder, progress).run(jobs, scheduler)


class _Sweep:
    def __init__(
        self,
        models: list[str],
        asked: list[Budgets],
        options: Options,
        given: Source,
        evaluation: Source | None,
        out: Path,
        progress: Callable[[SweepProgress], None] | None,
    ) -> None:
        self._options, self._given, self._evaluation, self._out = options, given, evaluation, out
        self._tell = progress or (lambda progress: None)
        self._models, self._asked = models, asked
        digest = samples_digest([given, evaluation])
        digests = {model: model_digest(model) for model in models}
        self._keys = {
            (model, each): key_of(digests[model], digest, options, each) for model in models for each in asked
        }
        self._failures: dict[str, str] = {}

    def run(self, jobs: int | None, scheduler: str | None) -> Sweep:
        """All that is missing, and what came of everything."""
        tasks = self._missing()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if jobs is None:
            jobs = 1 if any(map(is_timed, self._asked)) else max(min(cores, len(tasks)), 1)
        share = 1 if scheduler is not None else None if jobs == 1 else max(cores // jobs, 1)
        if tasks:
            self._work(tasks, jobs, self._options.run.threads or share, scheduler)
        self._time()
        found = Sweep(str(self._out), tuple(itertools.starmap(self._row, self._keys)))
        write_whole({self._out / TABLE: f"{found.to_csv()}\n".encode()})
        page.write(found, self._out / PAGE)
        return found

    def _missing(self) -> list[Task]:
        """A task for each model that lacks a piece; of models with the same content one."""
        found: dict[tuple[str, ...], Task] = {}
        for model in self._models:
            keyed = [(self._keys[model, each], each) for each in self._asked]
            lacking = tuple((key, each) for key, each in keyed if read_piece(self._out, key) is None)
            if lacking:
                path = os.path.abspath(model)
                task = Task(path, lacking, self._options, self._given, self._evaluation, str(self._out))
                found.setdefault(tuple(key for key, _ in lacking), task)
        return list(found.values())

    def _work(self, tasks: list[Task], jobs: int, threads: int | None, scheduler: str | None) -> None:
        """Let workers perform the tasks, and note why one broke off."""
        options = replace(self._options, run=replace(self._options.run, threads=threads))
        total = len(self._keys)
        done = total - sum(len(task.budgets) for task in tasks)
        shown = {key: place for place, key in self._keys.items()}
        with executor(jobs, threads, scheduler) as workers:
            futures = {workers.submit(perform, replace(task, options=options)): task for task in tasks}
            for future in as_completed(futures):
                keys = [key for key, _ in futures[future].budgets]
                error = future.exception()
                if error is not None:
                    self._failures |= dict.fromkeys(keys, f"{type(error).__name__}: {error}".splitlines()[0])
                for key in keys:
                    done += 1
                    self._tell(SweepProgress(done, total, self._row(*shown[key])))
        for draft in (*(self._out / PIECES).glob(DRAFTS), *(self._out / MODELS).glob(DRAFTS)):
            shutil.rmtree(draft, ignore_errors=True)

    def _time(self) -> None:
        """Measure the latencies that are missing."""
        for number, ((model, asked), key) in enumerate(self._keys.items(), 1):
            piece = read_piece(self._out, key)
            if piece is not None and not piece.timed:
                try:
                    write_piece(self._out, timed(piece, model, self._out, self._options.run))
                except LbylError as error:
                    logger.warning("%s at %s cannot be timed: %s", model, named(asked), error)
                self._tell(SweepProgress(number, len(self._keys), self._row(model, asked), timing=True))

    def _row(self, model: str, asked: Budgets) -> Row:
        key = self._keys[model, asked]
        return row_of(model, named(asked), read_piece(self._out, key), self._failures.get(key))


def _asked(models: object, targets: object) -> list[Budgets]:
    """The budgets, each once."""
    if isinstance(models, str | Path) or not isinstance(models, Sequence) or not models:
        raise UsageError(f"is {article(type(models).__name__)}; expected a list of files, at least one", "models")
    if not isinstance(targets, Sequence) or not targets or not all(targets):
        raise UsageError('expected a list of budgets such as [{"macs": 0.9}, {"macs": 0.8}]', "targets")
    return list(dict.fromkeys(budgets(target) for target in targets))


def _made(out: Path) -> Path:
    try:
        for name in (PIECES, MODELS):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made a folder ({error.strerror}); choose another", "out") from None
    return out.resolve()
