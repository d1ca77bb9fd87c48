"""A GPU's kernels, CuPy and cuDNN on the CPU, as far as the cudnn backend uses them."""
