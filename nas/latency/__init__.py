"""Latency on a device: measured, or predicted from a table of a space's layers.

`pieces.py` takes a network apart, `runtimes.py` runs it whole and layer by layer, `timing.py` measures honestly, `table.py` adds
layers up again; `build.py`, `check.py` and `fit.py` make tables and say how good they are.
"""
