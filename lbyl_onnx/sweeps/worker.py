"""The process behind one call of `executors.Processes`: reads it from standard input, answers on standard output."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys

from ..progress import LOG_FORMAT, PACKAGE


def main() -> None:
    """Answer one call with its value or its error; whatever prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger(PACKAGE).setLevel(int(sys.argv[1]))
    function, args, kwargs = pickle.loads(sys.stdin.buffer.read())
    value, error = None, None
    try:
        value = function(*args, **kwargs)
    except Exception as raised:
        error = raised
    answers.write(pickle.dumps((value, error)))
    answers.close()


if __name__ == "__main__":
    main()
