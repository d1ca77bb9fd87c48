"""Kept inputs are no tests, and links among them may go round in circles."""

collect_ignore = ["crashes"]
