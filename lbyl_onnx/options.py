"""What a user can ask for, as objects that are built once and handed on whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .budgets import Budget
from .errors import UsageError, article, counted

SCOPES = ("chains", "all")
GLOBAL = "global"
AUTO_RATIO: Final = "auto"
ALLOCATIONS = ("auto", "sensitivity", "uniform", GLOBAL)
PROVIDERS = ("auto", "cpu", "cuda")
DEFAULT_LAMBDA1, DEFAULT_LAMBDA2 = 100.0, 1e-3


@dataclass(frozen=True)
class PruneOptions:
    """What goes and how it is made up for.

    `ratio`: share of units to remove from each group, in [0, 1), or as much work as that saves, spent by sensitivity,
    or share of all groups' units together, there also "auto", those below a gap (None: `targets` alone count).
    `criterion`, `restore`: names of registered strategies. `scope`: "chains" (units that reach no residual sum or
    Concat) or "all". `round_to`: keep a multiple of this many units (None: by what kernels want). `allocation`: one of
    ALLOCATIONS. `targets`: budgets, all of which hold. `include`, `exclude`: regular expressions searched in producers'
    node names. `lambda1`, `lambda2`: LBYL's weights of the shift's error and of the solution's size. `seed`: of
    everything that is drawn.
    """

    ratio: float | str | None = None
    criterion: str = "obs"
    restore: str = "moments"
    scope: str = "chains"
    round_to: int | None = None
    include: str | None = None
    exclude: str | None = None
    lambda1: float = DEFAULT_LAMBDA1
    lambda2: float = DEFAULT_LAMBDA2
    seed: int = 0
    allocation: str = "auto"
    targets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        if self.ratio == AUTO_RATIO and self.allocation != GLOBAL:
            raise UsageError(f"is auto, which needs the allocation global, not {self.allocation}", "ratio")
        if self.ratio is not None and self.ratio != AUTO_RATIO:
            check_number("ratio", self.ratio, 0, 1, "a number in [0, 1), the share of units to remove", open_end=True)
        check_choice("scope", self.scope, SCOPES)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        if self.round_to is not None:
            check_whole("round_to", self.round_to, 1)
        check_whole("seed", self.seed, 0)
        for name in ("lambda1", "lambda2"):
            check_number(name, getattr(self, name), 0, float("inf"), "a finite number of at least 0", open_end=True)
        for name in ("include", "exclude"):
            pattern(name, getattr(self, name))
        if self.allocation == "sensitivity" and self.criterion != "obs":
            raise UsageError(f"is sensitivity, which needs the criterion obs, not {self.criterion}", "allocation")
        if self.allocation == GLOBAL and self.criterion == "obs":
            raise UsageError(
                "is global, which compares scores of single units, and the criterion obs has none; use bn-scale or l2, "
                "or the allocation sensitivity, by which obs compares groups",
                "allocation",
            )

    @property
    def by_sensitivity(self) -> bool:
        """Whether groups lose units by what that does to the outputs, rather than at one ratio."""
        return self.allocation == "sensitivity" or (self.allocation == "auto" and self.criterion == "obs")

    @property
    def asked(self) -> str:
        """What was asked for, in words."""
        text = self.ratio if isinstance(self.ratio, str) else f"{self.ratio or 0:g}"
        ratio = [] if self.ratio is None else [f"ratio {text}"]
        return " and ".join([*ratio, *map(str, self.targets)])


@dataclass(frozen=True)
class Normalisation:
    """What a model's training subtracted from and divided pixel values in [0, 1] by, for each channel, or one value
    for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, low in (("mean", -float("inf")), ("std", 0.0)):
            values, expected = getattr(self, name), f"a finite number{' above 0' if low == 0 else ''} for each channel"
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise UsageError(f"is {article(type(values).__name__)}; expected {expected}", name)
            for value in values:
                check_number(name, value, low, float("inf"), expected, open_start=True, open_end=True)
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"has {counted(len(self.std), 'value')}, mean has {len(self.mean)}; give as many of each", "std"
            )

    @classmethod
    def default(cls, channels: int) -> Normalisation:
        """ImageNet's for three channels, 0.5 and 0.5 for another number."""
        if channels == 3:
            return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return cls((0.5,) * channels, (0.5,) * channels)

    def __str__(self) -> str:
        mean, std = (",".join(f"{value + 0:.3g}" for value in values) for values in (self.mean, self.std))
        words = f"normalised by mean {mean}, std {std}"
        if len(self.mean) > 1:
            return words
        low, high = (f"{(end - self.mean[0]) / self.std[0] + 0:.3g}" for end in (0, 1))
        return f"{words} ({low} to {high})"


@dataclass(frozen=True)
class SampleOptions:
    """Samples that activations are measured on.

    `calibration`: a kind of made-up samples, or a path; `samples`: how many (None: by their size); `shapes`: sizes of
    dynamic inputs, by name; `normalisation`: of images (None: the default of their channels); `seed`: of what is drawn.
    """

    calibration: str = "auto"
    samples: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    normalisation: Normalisation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples is not None:
            check_whole("samples", self.samples, 1)
        check_whole("seed", self.seed, 0)
        object.__setattr__(self, "shapes", _shapes(self.shapes))
        if not isinstance(self.normalisation, Normalisation | None):
            kind = article(type(self.normalisation).__name__)
            raise UsageError(f"is {kind}; expected a Normalisation(mean, std)", "normalisation")


def _shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """A copy with tuples. Raises UsageError where it is none of shapes by name."""
    expected = 'expected sizes by input name, such as {"image": (1, 3, 224, 224)}'
    if not isinstance(shapes, Mapping):
        raise UsageError(f"is {article(type(shapes).__name__)}; {expected}", "shapes")
    for name, sizes in shapes.items():
        whole = isinstance(sizes, Sequence) and all(hasattr(size, "__index__") for size in sizes)
        if not isinstance(name, str) or not whole:
            raise UsageError(f"holds {name!r}: {sizes!r}; {expected}", "shapes")
    return {name: tuple(int(size) for size in sizes) for name, sizes in shapes.items()}


@dataclass(frozen=True)
class RunOptions:
    """How onnxruntime runs a model. `provider`: "auto", "cpu" or "cuda"; `threads`: of one operator (None:
    onnxruntime's choice); `custom_ops_library`: a shared library of operators to register."""

    provider: str = "auto"
    threads: int | None = None
    custom_ops_library: str | None = None

    def __post_init__(self) -> None:
        check_choice("provider", self.provider, PROVIDERS)
        if self.threads is not None:
            check_whole("threads", self.threads, 1)
        library = self.custom_ops_library
        if not isinstance(library, str | Path | None):
            kind = article(type(library).__name__)
            raise UsageError(f"is {kind}; expected the path of a shared library", "custom_ops_library")
        object.__setattr__(self, "custom_ops_library", None if library is None else str(library))


@dataclass(frozen=True)
class Limits:
    """What a result has to keep. `min_agreement`: of top-1, in per cent; `min_sqnr`: of every output, in decibels;
    `max_drop`: of accuracy, in points."""

    min_agreement: float | None = None
    min_sqnr: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.min_agreement is not None:
            check_number("min_agreement", self.min_agreement, 1, 100, "per cent, from 1 to 100")
        if self.min_sqnr is not None:
            check_number("min_sqnr", self.min_sqnr, -200, 200, "decibels, such as 15")
        if self.max_drop is not None:
            check_number("max_drop", self.max_drop, 0, 100, "points of accuracy, from 0 to 100")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(value is not None for value in (self.min_agreement, self.min_sqnr, self.max_drop))


@dataclass(frozen=True)
class Options:
    """All options of one run. `validation`: compare the result with the original; `evaluation`: labelled samples to do
    that on; `layer_errors`: measure what each layer lost; `plan`: a file of what to carry out, "given" from memory."""

    prune: PruneOptions
    samples: SampleOptions
    run: RunOptions
    limits: Limits = Limits()
    evaluation: str | None = None
    validation: bool = True
    layer_errors: bool = False
    plan: str | None = None

    def __post_init__(self) -> None:
        given = {**vars(self.limits), "eval": self.evaluation}
        for name, value in given.items():
            if value is not None and not self.validation:
                raise UsageError("needs the comparison; leave out --no-validate", name)
        if self.limits.max_drop is not None and self.evaluation is None:
            raise UsageError("needs labelled samples; give them with --eval", "max_drop")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UsageError where the value of parameter `name` is none of the `choices`."""
    if value not in choices:
        raise UsageError(f"{value!r} is unknown; expected one of {', '.join(choices)}", name)


def check_whole(name: str, value: object, least: int) -> None:
    """Raise UsageError where the value of parameter `name` is no whole number of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"is {article(type(value).__name__)}; expected a whole number of at least {least}", name)
    if value < least:  # type: ignore[operator]
        raise UsageError(f"is {value}; expected a whole number of at least {least}", name)


def check_number(
    name: str,
    value: object,
    least: float,
    most: float,
    expected: str,
    *,
    open_start: bool = False,
    open_end: bool = False,
) -> None:
    """Raise UsageError, which says what was `expected`, where parameter `name` is no number from `least` (above it,
    with `open_start`) to `most` (below it, with `open_end`)."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise UsageError(f"is {article(type(value).__name__)}; expected {expected}", name)
    number = float(value)
    if not least <= number <= most or (open_start and number == least) or (open_end and number == most):
        raise UsageError(f"is {number:g}; expected {expected}", name)


def pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    """The regular expression that parameter `name` holds; UsageError where it does not compile."""
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"{text!r} is not a regular expression: {error}", name) from error
    except TypeError:
        raise UsageError(f"is {article(type(text).__name__)}; expected a regular expression", name) from None
