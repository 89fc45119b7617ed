"""lbyl-onnx: training-free structured compression of ONNX models."""
