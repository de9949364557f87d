"""Latency on a device: measured, or predicted from a table of a space's layers.

`runtimes.py` runs a network whole and layer by layer, `timing.py` measures honestly, `table.py` adds layers up again; `build.py`
makes a table and `check.py` says how good it is.
"""
