"""FrontierSampler, an Optuna sampler for objectives some of which cost nothing to compute. Imports Optuna and `nas.errors` alone."""
