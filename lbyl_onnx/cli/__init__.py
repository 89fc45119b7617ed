"""The command line: reading arguments, showing what came out, and one line for what went wrong."""

from .app import main, run

__all__ = ["main", "run"]
