"""What is said where PyTorch is missing; the rest of the package does without."""

import subprocess
import sys

CODE = """
import sys
import lbyl_onnx
lbyl_onnx.compress
assert "torch" not in sys.modules
sys.modules["torch"] = None
from lbyl_onnx.errors import UsageError
try:
    import lbyl_onnx.training
except UsageError as error:
    print(error)
"""


def test_the_extra_is_named():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PyTorch cannot be imported" in done.stdout and "pip install 'lbyl-onnx[train]'" in done.stdout
