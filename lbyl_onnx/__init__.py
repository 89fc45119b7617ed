"""lbyl-onnx: training-free structured compression of ONNX models.

>>> import lbyl_onnx
>>> result = lbyl_onnx.compress("model.onnx", ratio=0.4)   # doctest: +SKIP
>>> lbyl_onnx.save(result.compressed, "smaller.onnx")      # doctest: +SKIP
"""

import os

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # numpy's threads must not spin while onnxruntime works

from .calibration.synthetic import Normalisation
from .compression import CompressionResult, compress
from .errors import LbylError, ModelError, NothingToRemove, UsageError, ValidationFailed
from .evaluation.inspection import inspect
from .evaluation.records import FileReport, GroupReport, Inspection, OutputComparison, Report, Validation
from .evaluation.validation import validate
from .model.file import Model
from .model.file import load_model as load
from .model.file import save_model as save

__version__ = "0.1.0"

__all__ = [
    "CompressionResult",
    "FileReport",
    "GroupReport",
    "Inspection",
    "LbylError",
    "Model",
    "ModelError",
    "Normalisation",
    "NothingToRemove",
    "OutputComparison",
    "Report",
    "UsageError",
    "Validation",
    "ValidationFailed",
    "compress",
    "inspect",
    "load",
    "save",
    "validate",
]
