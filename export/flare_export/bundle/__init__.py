"""Bundles: written, replaced, extended by int8."""
