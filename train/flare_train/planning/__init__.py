"""What is to be trained: plans, network size, recipe."""
