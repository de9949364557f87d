"""Draws the network of each training step, evenly over the parameters of a space, among the feasible networks alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.cost import cost
from nas.spaces import Params, SearchSpace, sample

Feasible = Callable[[Params], bool]

POOL: Final = 256  # feasible points that are drawn at first
MAX_DRAWS: Final = 20_000  # random points for the pool; with fewer than a tenth of POOL among them, the limits are too tight
MAX_CROSSINGS: Final = 8  # in one step, before a point of the pool itself is taken
SPREAD_SHARE: Final = 0.4  # of the steps, in which the draws spread from one network to all


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The networks that a training of shared weights draws: the same for the same step and process, so that it can resume.

    A step crosses two random feasible points: each parameter has the value of one of them. If most random points are feasible,
    this is as even as random points are; if few are, it finds feasible networks where random points would not.

    The first step draws the network in the middle of the space. From there the draws spread: the probability that a parameter
    has another value than there grows from 0 to 1 in SPREAD_SHARE of the steps. Random networks from the first step on learn
    nothing for a quarter of the training.
    """

    space: SearchSpace
    feasible: Feasible
    seed: int
    pool: Sequence[Params]
    """Random feasible points."""
    middle: Params
    """The point of the pool with the median multiply-adds."""

    def draw(self, step: int, steps: int, rank: int) -> Architecture:
        """The feasible network of a step, of `steps` in all, in the process `rank`."""
        generator = random.Random(f"{self.seed} {step} {rank}")  # a text, as Random takes no tuple
        spread = step / (SPREAD_SHARE * steps)
        for _ in range(MAX_CROSSINGS):
            one, other = generator.choice(self.pool), generator.choice(self.pool)
            moved = {name: generator.choice((one, other))[name] for name in one if generator.random() < spread}
            if self.feasible(params := self.middle | moved):
                return self.space.decode(params)
        return self.space.decode(generator.choice(self.pool) if spread > 1 else self.middle)


def make_draws(space: SearchSpace, feasible: Feasible, *, seed: int, examples: Sequence[Params] = ()) -> Draws:
    """The draws of a space; `examples` are feasible points to use where random ones are hardly ever feasible.

    Raises: NasError if no feasible point was found.
    """
    generator = random.Random(seed)
    pool = list(examples)
    for _ in range(MAX_DRAWS):
        if len(pool) >= POOL:
            break
        params = sample(space.parameters, generator)
        if feasible(params):
            pool.append(params)
    if not pool:
        raise NasError(f"none of {MAX_DRAWS:,} random networks of space {space.name} meets the limits; widen them")
    by_macs = sorted(pool, key=lambda params: cost(space.decode(params)).macs)
    return Draws(space=space, feasible=feasible, seed=seed, pool=pool, middle=by_macs[len(by_macs) // 2])
