"""Training of networks that can be pruned, in PyTorch (`pip install 'lbyl-onnx[train]'`): a BatchNormalization whose
scale is bounded, and penalties that push scales of units that matter little to zero.

Nothing else in the package imports this room, and it needs nothing of the others but their errors.
"""

from ..errors import UsageError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise UsageError(
        f"PyTorch cannot be imported ({error}), which lbyl_onnx.training needs; pip install 'lbyl-onnx[train]'"
    ) from error

from .batch_normalisation import BoundedBatchNorm, bounded, fold, importances
from .penalties import l1, parameter_groups, receding

__all__ = ["BoundedBatchNorm", "bounded", "fold", "importances", "l1", "parameter_groups", "receding"]
