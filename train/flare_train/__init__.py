"""nnU-Net training of the lightweight network, and the phantoms it is tried on."""
