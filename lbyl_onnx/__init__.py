"""lbyl-onnx: training-free structured compression of ONNX models.

>>> import lbyl_onnx
>>> result = lbyl_onnx.compress("model.onnx", ratio=0.4)   # doctest: +SKIP
>>> lbyl_onnx.save(result, "smaller.onnx")                 # doctest: +SKIP
"""

import os

import lazy_loader

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # numpy's threads must not spin while onnxruntime works
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nothing is written down or sent about what is run

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> object:
    """What the stub names, imported when it is asked for; the version too, which is slow to find."""
    if name == "__version__":
        from importlib.metadata import version

        return version("lbyl-onnx")
    return _lazy(name)
