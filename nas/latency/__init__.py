"""Latency on a device: measured, or predicted from a table of a space's layers.

`table.py` adds layers up, `runtimes.py` runs a network whole and layer by layer, `timing.py` measures honestly; `build.py` makes
a table and says how good it is.
"""
