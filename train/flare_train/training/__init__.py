"""The training itself, resumable at any moment."""
