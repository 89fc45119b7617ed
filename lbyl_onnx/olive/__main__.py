"""`python -m lbyl_onnx.olive > packages.json` prints what `olive run --package-config packages.json` wants."""

import json
import sys

from ..errors import LbylError
from .packages import package_config

if __name__ == "__main__":
    try:
        print(json.dumps(package_config(), indent=2))
    except LbylError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
