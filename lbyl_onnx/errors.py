"""What can go wrong, one class for each exit code; the message is one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LbylError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 3


class UsageError(LbylError):
    """An option or argument is wrong. `parameter`: its name in Python, which the message begins with; the command line
    shows the option instead."""

    exit_code = 2

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter

    def __str__(self) -> str:
        return f"{self.parameter} {self.message}" if self.parameter else self.message


class ModelError(LbylError):
    """A model is unreadable, invalid or unsafe."""

    exit_code = 3


class MeasurementFailed(ModelError):
    """onnxruntime runs the model, but not the stretches of it in which activations are measured."""


class NothingToRemove(LbylError):
    """No channel group of the model can lose a unit under the given options."""

    exit_code = 4


class ValidationFailed(LbylError):
    """The compressed model does not load, changes output shapes, is not finite, or fails a limit that was set."""

    exit_code = 5


@contextmanager
def naming(parameter: str) -> Iterator[None]:
    """A wrong value met inside is the caller's `parameter`, whatever it is called further in."""
    try:
        yield
    except UsageError as error:
        if error.parameter is None:
            raise
        raise UsageError(error.message, parameter) from None


def article(noun: str) -> str:
    """The noun with its article.

    >>> article("int"), article("list")
    ('an int', 'a list')
    """
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def counted(count: int, noun: str) -> str:
    """The number and the noun, in the plural unless there is one.

    >>> counted(1, "group"), counted(2, "group")
    ('1 group', '2 groups')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
