"""The package configuration by which Olive finds the pass."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UsageError

EXTRA = "pip install 'lbyl-onnx[olive]'"


def package_config() -> dict[str, Any]:
    """All passes that the installed Olive has, and ours: Olive reads no entry points, and what it is given takes the
    place of its own list. For `olive.run(recipe, package_config=...)`.

    The list is read without importing Olive, which takes seconds. Raises UsageError where there is none.
    """
    spec = find_spec("olive")
    own = [Path(folder, "olive_config.json") for folder in (spec and spec.submodule_search_locations) or ()]
    if not own or not own[0].is_file():
        raise UsageError(f"olive-ai is not installed; {EXTRA}")
    found = json.loads(own[0].read_text(encoding="utf-8"))
    found["passes"]["LbylCompression"] = {
        "module_path": f"{__package__}.compression_pass.LbylCompression",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "module_dependencies": ["lbyl-onnx"],
        "dataset": "dataset_optional",
    }
    return found
