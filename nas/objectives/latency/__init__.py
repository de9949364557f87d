"""Latency on a device: measured, or predicted from a table of a space's layers.

`table.py` sums the latencies of layers, `measure.py` runs a network and times it; `build.py` makes and checks a table.
"""
