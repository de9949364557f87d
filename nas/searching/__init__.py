"""From an experiment to a run folder: Optuna proposes, Ray Tune runs, every trial is logged."""

import sys

from nas.errors import NasError

if sys.flags.optimize > 1:
    raise NasError("Python runs with -OO or PYTHONOPTIMIZE=2, which removes docstrings that Ray reads; use -O, or neither")
