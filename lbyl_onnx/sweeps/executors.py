"""Where tasks run: in processes of this machine, or on the workers of a Dask cluster, behind one interface."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..errors import UsageError
from ..progress import PACKAGE

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
ATTEMPTS = 2
"""How often a call is made whose process dies."""
CONNECTION_SECONDS = 10

logger = logging.getLogger(__name__)


class WorkerDied(RuntimeError):
    """A process ended without an answer, each time that it was tried."""


class Processes(Executor):
    """Runs each call in a fresh process, `jobs` at a time, in which numpy and the like use `threads` (None: as they
    like). A call whose process dies is made once more. Memory that a call took is free when it ends, and no script
    needs a main guard."""

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        self._waiting = ThreadPoolExecutor(jobs)
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        limits = dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
        self._environment = {**os.environ, **limits, "PYTHONPATH": path}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future answer of a call; function and arguments have to be such that they can be pickled."""
        return self._waiting.submit(self._answer, pickle.dumps((function, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for all calls, or end their processes at once."""
        if not wait:
            self._closed = True
            for process in list(self._running):
                process.kill()
        self._waiting.shutdown(wait=True, cancel_futures=cancel_futures or not wait)

    def _answer(self, call: bytes) -> Any:
        level = str(logging.getLogger(PACKAGE).getEffectiveLevel())
        command = [sys.executable, "-m", f"{__package__}.worker", level]
        for _ in range(ATTEMPTS):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment)
            self._running.add(process)
            if self._closed:
                process.kill()
            answer, _ = process.communicate(call)
            self._running.discard(process)
            if answer:
                value, error = pickle.loads(answer)
                if error is not None:
                    raise error
                return value
            if self._closed:
                break
            logger.warning("a worker process ended with code %s", process.returncode)
        raise WorkerDied(f"the worker process ended with code {process.returncode}; it may have run out of memory")


@contextmanager
def executor(jobs: int, threads: int | None, scheduler: str | None) -> Iterator[Executor]:
    """What runs tasks: `jobs` processes of `threads` each, or the cluster of a Dask `scheduler`. Where the block ends
    with an error, what has not begun is dropped. Raises UsageError where the cluster cannot be had."""
    if scheduler is None:
        found: Executor = Processes(jobs, threads)
        client = None
    else:
        client = _client(scheduler)
        found = client.get_executor(pure=False)
    try:
        yield found
        found.shutdown(wait=True)
    except BaseException:
        found.shutdown(wait=False)
        raise
    finally:
        if client is not None:
            client.close()


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("needs Dask; install it with pip install 'lbyl-onnx[cluster]'", "scheduler") from None
    try:
        return Client(scheduler, timeout=CONNECTION_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        expected = "expected the address of a running Dask scheduler, such as tcp://host:8786"
        raise UsageError(f"{scheduler} cannot be reached ({error}); {expected}", "scheduler") from None
