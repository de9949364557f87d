"""Experiments: each file exports EXPERIMENT, and its name is the name of the experiment."""
