"""What can go wrong, one class for each exit code; the message is one line that says what to do."""


class LbylError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 3


class UsageError(LbylError):
    """An option or argument is wrong."""

    exit_code = 2


class ModelError(LbylError):
    """A model is unreadable, invalid or unsafe."""

    exit_code = 3


class NothingToRemove(LbylError):
    """No channel group of the model can lose a unit under the given options."""

    exit_code = 4


class ValidationFailed(LbylError):
    """The compressed model does not load, changes output shapes or is not finite."""

    exit_code = 5
