from .compression import CompressionResult, compress
from .errors import LbylError, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.certificates.certify import Certificate, certify
from .evaluation.certificates.needed import SamplesNeeded, samples_needed
from .evaluation.certificates.statements import Statement
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
    PositionComparison,
    PruningBound,
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
from .sweeps.rows import Row, Sweep
from .sweeps.sweep import SweepProgress, sweep

__version__: str

__all__ = [
    "Certificate",
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
    "PositionComparison",
    "Progress",
    "PruneOptions",
    "PruningBound",
    "Report",
    "Row",
    "RunOptions",
    "SampleOptions",
    "SamplesNeeded",
    "Statement",
    "Sweep",
    "SweepProgress",
    "UsageError",
    "Validation",
    "ValidationFailed",
    "Verdict",
    "certify",
    "compress",
    "inspect",
    "load",
    "plan",
    "samples_needed",
    "save",
    "save_plots",
    "save_report",
    "sweep",
    "validate",
]
