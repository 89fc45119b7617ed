from .compression import CompressionResult, compress
from .errors import LbylError, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.inspection import inspect
from .evaluation.plan_file import PlanReport
from .evaluation.planned import FrontierPoint, Planned, PlannedGroup
from .evaluation.planning import plan
from .evaluation.records import (
    ClassComparison,
    FileReport,
    GroupReport,
    Inspection,
    LayerErrors,
    LayerReport,
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
from .reporting.files import save_plots, save_report
from .restoration.methods import Outcome

__version__: str

__all__ = [
    "ClassComparison",
    "CompressionResult",
    "FileReport",
    "FrontierPoint",
    "GroupReport",
    "Inspection",
    "LayerErrors",
    "LayerReport",
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
    "Planned",
    "PlannedGroup",
    "Progress",
    "PruneOptions",
    "Report",
    "RunOptions",
    "SampleOptions",
    "UsageError",
    "Validation",
    "ValidationFailed",
    "Verdict",
    "compress",
    "inspect",
    "load",
    "plan",
    "save",
    "save_plots",
    "save_report",
    "validate",
]
