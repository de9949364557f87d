"""The line of networks from a dense one to a searched one: `python -m experiments.line`."""
