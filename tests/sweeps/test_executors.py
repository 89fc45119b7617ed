"""Processes that calls are made in, and what becomes of those that die."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import as_completed

import pytest

from lbyl_onnx.errors import UsageError
from lbyl_onnx.sweeps.executors import THREAD_VARIABLES, Processes, WorkerDied, executor


def square(number):
    return number * number


def environment():
    return os.getpid(), [os.environ.get(name) for name in THREAD_VARIABLES]


def refuse():
    raise UsageError("is wrong", "option")


def talk():
    os.write(1, b"what a library in C prints\n")
    print("and what we print")
    return "the answer"


def die(marker, times):
    """Kill this process, as often as that."""
    with open(marker, "a") as file:
        file.write("x")
    if os.path.getsize(marker) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(marker)


def sleep(marker):
    open(marker, "w").close()
    time.sleep(60)


def test_calls_are_made_in_other_processes():
    with executor(2, 1, None) as workers:
        futures = [workers.submit(square, number) for number in (2, 3)]
        process, limits = workers.submit(environment).result()
        assert sorted(future.result() for future in as_completed(futures)) == [4, 9]
    assert process != os.getpid() and limits == ["1"] * len(THREAD_VARIABLES)


def test_errors_come_back_as_they_are(capfd):
    with executor(1, None, None) as workers:
        error = workers.submit(refuse).exception()
        assert isinstance(error, UsageError) and (error.parameter, str(error)) == ("option", "option is wrong")
        assert workers.submit(talk).result() == "the answer"
    assert "what a library in C prints" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_dies_is_replaced_once(tmp_path):
    once, always = tmp_path / "once", tmp_path / "always"
    with executor(2, None, None) as workers:
        saved, lost = workers.submit(die, once, 1), workers.submit(die, always, 9)
        assert saved.result() == 2
        with pytest.raises(WorkerDied, match=f"ended with code -{int(signal.SIGKILL)}"):
            lost.result()
    assert always.stat().st_size == 2


def test_an_error_ends_what_runs(tmp_path):
    marker = tmp_path / "began"
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), executor(1, None, None) as workers:
        future, later = workers.submit(sleep, marker), workers.submit(square, 2)
        while not marker.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 50
    assert isinstance(future.exception(), WorkerDied) and later.cancelled()


def test_nothing_outlives_the_executor():
    before = threading.active_count()
    workers = Processes(2)
    assert workers.submit(square, 3).result() == 9
    workers.shutdown()
    assert threading.active_count() == before
