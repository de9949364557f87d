"""Experiments, one file each, exporting EXPERIMENT; a file put here is found by its name."""
