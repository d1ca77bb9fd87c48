"""TensorRT on a GPU, with engines built for it."""
