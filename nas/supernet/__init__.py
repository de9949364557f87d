"""Shared weights: one set of weights in which every network of a space is a slice."""
