"""Runs: the experiment, the run folder, the DataFrame of results and the HTML page. Needs neither torch nor Ray."""
