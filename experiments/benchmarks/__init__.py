"""Benchmarks: scripts that print their figures, the last line as one JSON object. Run: python -m experiments.benchmarks.NAME."""
