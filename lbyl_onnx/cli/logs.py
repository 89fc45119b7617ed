"""--verbose: what the package logs, on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..progress import LOG_FORMAT, PACKAGE


def log_to_stderr(context: typer.Context, wanted: bool) -> bool:
    """Let everything be shown for as long as the command runs, where that is `wanted`."""
    if wanted and not context.resilient_parsing:
        context.with_resource(_shown())
    return wanted


@contextmanager
def _shown() -> Iterator[None]:
    logger, handler = logging.getLogger(PACKAGE), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
