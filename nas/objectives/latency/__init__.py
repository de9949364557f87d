"""Latency on a device: measured, or predicted from a table of a space's layers.

`table.py` sums layer latencies, `measure.py` runs a network and times it; `build_table.py` makes and checks a table. For another
device, `sample.py` writes networks to measure there, `measured.py` reads their list, and `fit_table.py` fits a table to them.
"""
