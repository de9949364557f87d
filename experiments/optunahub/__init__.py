"""FrontierSampler as a package of the OptunaHub registry: `python -m experiments.optunahub REGISTRY`."""
