"""FrontierSampler: an Optuna sampler for objectives some of which cost nothing. Imports Optuna and `nas.errors` alone."""
