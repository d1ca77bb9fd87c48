"""What a training run wrote down, and the report of it."""
