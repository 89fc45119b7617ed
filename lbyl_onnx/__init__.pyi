from .compression import CompressionResult, compress
from .errors import LbylError, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.inspection import inspect
from .evaluation.records import (
    FileReport,
    GroupReport,
    Inspection,
    LayerErrors,
    OutputComparison,
    Report,
    Validation,
)
from .evaluation.validation import validate
from .model.model import Model
from .model.reading import load
from .model.writing import save
from .options import Normalisation, Options, PruneOptions, RunOptions, SampleOptions
from .restoration.methods import Outcome

__version__: str

__all__ = [
    "CompressionResult",
    "FileReport",
    "GroupReport",
    "Inspection",
    "LayerErrors",
    "LbylError",
    "Model",
    "ModelError",
    "Normalisation",
    "NothingToRemove",
    "Options",
    "Outcome",
    "OutputComparison",
    "PruneOptions",
    "Report",
    "RunOptions",
    "SampleOptions",
    "UsageError",
    "Validation",
    "ValidationFailed",
    "compress",
    "inspect",
    "load",
    "save",
    "validate",
]
