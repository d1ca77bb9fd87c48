"""Where scripts outside of the repository import `write_model_folder` from."""

from benchmarks.samples.model_folders import CONFIGURATION, make_plans, write_cascade, write_model_folder

__all__ = ["CONFIGURATION", "make_plans", "write_cascade", "write_model_folder"]
