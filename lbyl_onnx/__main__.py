"""The command `lbyl-onnx`, also as `python -m lbyl_onnx`."""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interruption ends it quietly even while it is being imported."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # libraries make other errors of an exception
    try:
        from .cli import main as run

        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
