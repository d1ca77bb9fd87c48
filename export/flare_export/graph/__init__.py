"""ONNX graphs of a network."""
