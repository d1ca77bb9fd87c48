"""What nnU-Net wrote: checkpoints, plans and model folders, read without trusting them."""
