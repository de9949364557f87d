"""Writes networks as folders that run without this project, trains networks in full, and compares the two rankings."""
