"""`python -m lbyl_onnx` is `lbyl-onnx`."""

from .cli import main

main()
