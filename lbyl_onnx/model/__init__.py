"""A model: its graph, its weights, its file, and the onnxruntime sessions that run it."""
