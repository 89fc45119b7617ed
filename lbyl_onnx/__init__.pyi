from .compression import CompressionResult, compress
from .errors import LbylError, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.inspection import inspect
from .evaluation.plan_file import FrontierPoint, PlannedGroup, PlanReport
from .evaluation.planning import plan
from .evaluation.records import (
    ClassComparison,
    FileReport,
    GroupReport,
    Inspection,
    LayerErrors,
    OutputComparison,
    Report,
    Validation,
    Verdict,
)
from .evaluation.validation import validate
from .model.model import Model
from .model.reading import load
from .model.writing import save
from .options import Limits, Normalisation, Options, PruneOptions, RunOptions, SampleOptions
from .progress import Progress
from .restoration.methods import Outcome
from .sweeps.rows import Row, Sweep
from .sweeps.sweep import SweepProgress, sweep

__version__: str

__all__ = [
    "ClassComparison",
    "CompressionResult",
    "FileReport",
    "FrontierPoint",
    "GroupReport",
    "Inspection",
    "LayerErrors",
    "LbylError",
    "Limits",
    "Model",
    "ModelError",
    "Normalisation",
    "NothingToRemove",
    "Options",
    "Outcome",
    "OutputComparison",
    "PlanReport",
    "PlannedGroup",
    "Progress",
    "PruneOptions",
    "Report",
    "Row",
    "RunOptions",
    "SampleOptions",
    "Sweep",
    "SweepProgress",
    "UsageError",
    "Validation",
    "ValidationFailed",
    "Verdict",
    "compress",
    "inspect",
    "load",
    "plan",
    "save",
    "sweep",
    "validate",
]
