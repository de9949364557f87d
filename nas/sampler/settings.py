"""The settings of FrontierSampler, with the values that its benchmarks in README.md were measured with."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The budgets and constants of FrontierSampler; counts unless the comment gives another unit."""

    # Proposals
    initial_trials: tuple[int, int] = (6, 16)  # space-filling ones: num_params / 3, clamped to this range
    min_observations: int = 3  # finished trials before a model is fitted
    max_observations: int = 400  # finished trials that are modelled: half of these the best, the rest at random
    pool_values: int = 10_000  # budget per proposal: scores pool_values / num_params candidates of the pool
    min_parents: int = 8  # fewest networks to mutate: the non-dominated ones, filled up with the next best
    child_values: int = 8_000  # budget per proposal: scores child_values / num_params mutated candidates
    max_children: int = 384  # upper limit of these candidates
    climb_rounds: int = 2  # rounds of local search from the most promising candidates
    climb_parents: int = 6  # candidates that a round starts from
    climb_children: int = 40  # mutated candidates per round
    repeat_candidates: int = 16  # networks of the front, the most uncertain ones, that may get a further trial
    cached_fits: int = 8  # sets of hyperparameters kept, one for each set of observations
    min_curves: int = 3  # finished trials that must have reported a step before trials stopped there are extrapolated
    max_unfinished: int = 100  # most recent stopped trials that are modelled; also failed ones, and pending ones

    # Candidates
    scored_points: int = 2_048  # in spaces of up to this size, every proposal scores all points
    enumerated_points: int = 65_536  # spaces of up to this size are enumerated before the study ends
    pool_size: int = 1_024  # random candidates of a larger space
    cached_pools: int = 4  # pools kept, one for each set of fixed parameters
    max_draws: int = 5_000  # random points drawn to fill the pool, where few are feasible
    sparse_pool: int = 256  # pools of fewer networks are filled up with mutations of these
    max_cost_deviations: float = 10.0  # cost features are clipped to this many standard deviations either way
    mutation_retries: int = 2  # further rounds of mutations where less than half are new and feasible

    # Encoding
    max_listed_values: int = 64  # numeric parameters of up to this many values are encoded one by one
    probe_points: int = 20  # random points by which conditional parameters are found
    mutation_shares: tuple[float, ...] = (1.0, 0.4, 0.15)  # shares of the children whose first, second and third value is mutated
    mutation_deviation: float = 0.15  # standard deviation of a numeric mutation, as a share of the range

    # Surrogate
    scale_observations: int = 12  # first losses, whose median sets the spread, as later ones concentrate near the best
    max_quartile_gaps: float = 10.0  # most spread, in gaps from best to lower quartile, so that diverged trainings do not set it
    max_log_loss: float = 2.0  # losses more than e^2 - 1 spreads above the best are clipped
    fit_observations: int = 96  # most observations that the hyperparameters are fitted to
    fit_steps: int = 20  # iterations of L-BFGS-B
    refit_always: int = 24  # up to this many observations, each new one causes a fit
    refit_growth: float = 8 / 7  # beyond, a fit each time that their number has grown by this factor
    prior_relevance: float = 2.0  # mean squared distance of two random points, with each relevance at its prior median
    cost_relevance: float = 0.3  # prior median of the relevance of a cost, which tells more than most parameters do

    # Acquisition
    max_cells: int = 640  # cells of the grid over all losses but one


SETTINGS: Final = Settings()
LEARNING_CURVE: Final = (
    "learning_curve"  # user attribute of a trial: [step, value] pairs of its first objective that needs training
)
