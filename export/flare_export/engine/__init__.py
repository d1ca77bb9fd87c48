"""TensorRT engines: built, checked, kept."""
