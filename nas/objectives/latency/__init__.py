"""Latency on a device: measured, or predicted from a table of a space's layers.

`table.py` adds layers up, `measure.py` runs a network and measures it honestly; `build.py` makes a table and says how good it is.
"""
