"""From an experiment to a run folder: Optuna proposes, Ray Tune runs, every trial is logged."""
