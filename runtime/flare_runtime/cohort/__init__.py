"""What a folder of results says as a whole: how far a cohort is, and its records as tables."""
