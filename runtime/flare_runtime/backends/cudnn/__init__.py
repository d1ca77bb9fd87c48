"""cuDNN on a GPU, without another engine."""
