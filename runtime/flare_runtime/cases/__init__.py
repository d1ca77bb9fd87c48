"""The cases of an input: which there are, and where the results of each go."""
