"""Files that are written so that nothing of anybody is lost, and what is kept beside them."""
