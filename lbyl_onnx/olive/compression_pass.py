"""The pass: its parameters are the arguments of `lbyl_onnx.compress`."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..compression import CompressionResult, compress
from ..errors import UsageError
from ..evaluation import tables
from ..model.writing import save
from ..options import Normalisation
from .packages import EXTRA

try:
    from olive.common.config_utils import ParamCategory, validate_config
    from olive.data.config import DataConfig
    from olive.hardware import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.passes import Pass
    from olive.passes.pass_config import BasePassConfig, PassConfigParam
    from olive.search.search_parameter import Categorical
except ModuleNotFoundError as error:
    raise UsageError(f"olive-ai cannot be imported ({error}); {EXTRA}") from error

logger = logging.getLogger(f"olive.{__name__}")  # Olive shows what its own logger and those below it are told

PROVIDERS = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
"""What our options call the providers of Olive's accelerators; `auto` for others."""
SEARCHED: dict[str, tuple[Any, str]] = {
    "ratio": (float, "As much work as goes with this share of every group's units, in [0, 1)."),
    "scope": (str, "chains: leave units of residual sums and Concat alone; all: those too."),
    "round_to": (int, "Keep a multiple of this many units per group (null: what the provider's kernels want)."),
    "allocation": (str, "Who loses how much: sensitivity, uniform, global or auto."),
    "criterion": (str, "Which units go: obs, l1, l2, l2-gm, bn-scale or random."),
    "restore": (str, "How to make up for them: moments, lbyl, neuron-merging or none."),
    "calibration": (
        str,
        "What activations are measured on: auto, photos, leaves, noise, an .npz, a folder of images.",
    ),
    "samples": (int, "How many samples."),
    "seed": (int, "Seed of everything that is drawn."),
}
"""Parameters of which a recipe with a search strategy may give a list to search over."""
FIXED: dict[str, tuple[Any, str]] = {
    "target": (
        dict[str, float | str],
        'Budgets that all hold, such as {"macs": 0.8, "bytes": "4MB"}; default without ratio: {"drop": "1%"}.',
    ),
    "lambda1": (float, "lbyl: weight of the shift's error."),
    "lambda2": (float, "lbyl: weight of the solution's size."),
    "include": (str, "Only groups with a producer whose node name matches this regular expression."),
    "exclude": (str, "No group with a producer whose node name matches it."),
    "shapes": (dict[str, list[int]], "Sizes of dynamic inputs, by name."),
    "threads": (int, "onnxruntime's threads (null: its choice)."),
    "provider": (str, "onnxruntime's: auto, cpu or cuda; default: the accelerator's."),
    "min_agreement": (float, "Fail where less than so many per cent of top-1 answers agree."),
    "min_sqnr": (float, "Fail where an output keeps less signal over error, in decibels."),
    "max_drop": (float, "Fail where accuracy on `evaluation` falls by more points."),
    "validation": (bool, "Compare the result with the original."),
}
PATHS = {
    "plan": "What `lbyl-onnx plan --out` wrote, carried out in place of ratio and target.",
    "evaluation": "Labelled samples to compare on: an .npz with labels, or a folder with a sub-folder for each class.",
    "custom_ops_library": "A shared library of operators that the model needs.",
}
OWN: dict[str, tuple[Any, str]] = {
    "data_config": (DataConfig | dict, "Olive's data to measure activations on, in place of calibration."),
    "mean": (list[float], "Means of pixels in [0, 1] that images are normalised by."),
    "std": (list[float], "Deviations to these means."),
}
"""Parameters that `compress` takes in another form."""


class LbylCompression(Pass):
    """Remove units of channel groups where the outputs lose least, and make up for them in their consumers' weights."""

    DEFAULTS: ClassVar = {name: each.default for name, each in inspect.signature(compress).parameters.items()}

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:
        """Blocks that kernels want and latencies differ between providers."""
        return False

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        defaults = {**cls.DEFAULTS, "provider": PROVIDERS.get(accelerator_spec.execution_provider, "auto")}
        given = {**SEARCHED, **FIXED, **OWN, **{name: (str, text) for name, text in PATHS.items()}}
        return {
            name: PassConfigParam(
                type_=kind,
                default_value=defaults.get(name),
                search_defaults=Categorical([defaults[name]]) if name in SEARCHED else None,
                category=ParamCategory.PATH if name in PATHS else ParamCategory.NONE,
                description=text,
            )
            for name, (kind, text) in given.items()
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        result = compress(model.model_path, **arguments(config, model.io_config))
        _log(result)
        path = Path(resolve_onnx_path(output_model_path))
        save(result, path, force=True)
        if result.compressed.external or path.with_name(f"{path.name}.data").exists():
            return ONNXModelHandler(str(path.parent), onnx_file_name=path.name)
        return ONNXModelHandler(str(path))


def arguments(config: BasePassConfig, io_config: dict[str, Any]) -> dict[str, Any]:
    """What `compress` is called with. `io_config`: Olive's, of the model's inputs. Raises UsageError."""
    found = {name: getattr(config, name) for name in (*SEARCHED, *FIXED, *PATHS)}
    if config.mean is not None or config.std is not None:
        found["normalisation"] = Normalisation(tuple(config.mean or ()), tuple(config.std or ()))
    if config.data_config is not None:
        if config.calibration != LbylCompression.DEFAULTS["calibration"]:
            raise UsageError("is given beside data_config; leave one of them out", "calibration")
        found["calibration"] = samples_of(config.data_config, io_config)
    return found


def samples_of(data_config: Any, io_config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by input name, first axis = samples, of all batches of Olive's data, labels left out."""
    container = validate_config(data_config, DataConfig).to_data_container()
    reader = container.create_calibration_dataloader(io_config=io_config)
    batches = list(iter(reader.get_next, None))
    if not batches:
        raise UsageError("holds no samples", "data_config")
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _log(result: CompressionResult) -> None:
    before, after, validation = result.report.input, result.report.output, result.report.validation
    logger.info("%s parameters became %s; %s", before.parameters, after.parameters, tables.cut_summary(result.report))
    if validation is not None and validation.verdict is not None:
        logger.info("%s", tables.verdict(validation))
    for warning in result.report.warnings:
        logger.warning("%s", warning)
