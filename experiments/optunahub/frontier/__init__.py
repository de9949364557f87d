"""FrontierSampler, for studies in which some objectives are computed before training. Read `frontier.py` next."""

from nas.errors import NasError
from nas.sampler.frontier import FrontierSampler

__all__ = ["FrontierSampler", "NasError"]
