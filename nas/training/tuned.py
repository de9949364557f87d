"""Training settings that are parameters of a search, beside those of its space: `--tune "train.lr=0.001..0.02 log"`."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.errors import NasError, unknown_name
from nas.models.architecture import Architecture
from nas.models.network import absolute_name
from nas.spaces import Params, SearchSpace, grid_values
from nas.training.settings import NO_TEACHER, RANDAUGMENT, TrainSettings, idle_settings

PREFIX: Final = "train."
AUGMENT: Final = f"{PREFIX}augment"
TEACHER: Final = f"{PREFIX}teacher"
RANGE: Final = re.compile(r"(?P<low>[^,]+?)\.\.(?P<high>[^,]+?)(?P<log>\s+log)?")
NUM_ID_DIGITS: Final = 10
FORM: Final = (
    "train.NAME=LOW..HIGH, with ' log' for a logarithmic scale, or train.NAME=VALUE,VALUE, each in quotes, such as "
    "'train.lr=0.001..0.02 log'"
)


def parse_tuned(text: str) -> tuple[str, BaseDistribution]:
    """(parameter, its values) of a training setting to search, such as "train.lr=0.001..0.02 log" or "train.mixup=0,0.2".

    Raises: NasError for another form, an unknown setting, or a range that is empty.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    field = name.removeprefix(PREFIX).replace("-", "_")
    defaults = asdict(TrainSettings())
    if not (name.startswith(PREFIX) and equals and values):
        raise NasError(f"tune: {text!r} is not {FORM}")
    if field not in defaults:
        raise unknown_name("tune: setting", field, defaults)
    if field == "epochs":
        raise NasError("tune: train.epochs cannot be searched, as trainings of different lengths do not compare")
    read = type(defaults[field])
    if match := RANGE.fullmatch(values):
        if read is str:
            raise NasError(f"tune: {text!r} is a range, and train.{field} is a name; give a list, as in {FORM}")
        low, high = (_number(text, match[bound], read) for bound in ("low", "high"))
        return PREFIX + field, _range(text, low, high, log=bool(match["log"]))
    choices = [one.strip() if read is str else _number(text, one, read) for one in values.split(",")]
    if len(set(choices)) < max(2, len(choices)):
        raise NasError(f"tune: {text!r} does not list two or more different values; {FORM}")
    return PREFIX + field, CategoricalDistribution(choices)


def resolved_tune(text: str) -> str:
    """A setting to search as `parse_tuned` reads it, with the absolute paths of teachers' folders."""
    name, equals, values = text.partition("=")
    if name.strip() != TEACHER or not equals:
        return text
    teachers = (value.strip() for value in values.split(","))
    return f"{TEACHER}={','.join(one if one == NO_TEACHER else absolute_name(one) for one in teachers)}"


def _number(text: str, number: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(number)
    except ValueError:
        raise NasError(f"tune: {text!r}: {number.strip()!r} is not {'a whole' if read is int else 'a'} number") from None


def _range(text: str, low: float, high: float, *, log: bool) -> BaseDistribution:
    if not -math.inf < low < high < math.inf:
        raise NasError(f"tune: {text!r} is no range from a lower to a higher number")
    if log and low <= 0:
        raise NasError(f"tune: {text!r}: a logarithmic scale begins above 0")
    kind: Any = IntDistribution if isinstance(low, int) else FloatDistribution
    distribution: BaseDistribution = kind(low, high, log=log)
    return distribution


@dataclass(frozen=True, kw_only=True)
class TunedSpace(SearchSpace):
    """A space whose parameters include training settings. They change no network.

    Raises: NasError for a setting that cannot be searched, or a value of one that is not allowed.
    """

    space: SearchSpace
    tune: tuple[str, ...]
    """The settings to search, as `parse_tuned` reads them."""
    train: TrainSettings
    """The other settings."""

    def __post_init__(self) -> None:
        if len(self.tuned) < len(self.tune):
            raise NasError(f"tune: {', '.join(self.tune)} names one setting twice")
        first = {name: grid_values(distribution)[0] for name, distribution in self.tuned.items()}
        augments, teachers = self.values_of("augment"), self.values_of("teacher")
        switched_on = {  # so that every other setting has an effect, if it can have one
            AUGMENT: RANDAUGMENT if RANDAUGMENT in augments else augments[0],
            TEACHER: next((one for one in teachers if one != NO_TEACHER), NO_TEACHER),
        }
        idle = {PREFIX + name for name in idle_settings(*switched_on.values())}
        for name in (name for name in self.tuned if name in idle):
            what = f"train.teacher {NO_TEACHER}" if name.startswith(TEACHER) else f"train.augment {', '.join(augments)}"
            raise NasError(f"tune: {name} does nothing with {what}")
        first |= {name: value for name, value in switched_on.items() if name in self.tuned}
        for name, distribution in self.tuned.items():
            for value in grid_values(distribution):
                try:
                    settings_with(self.train, {**first, name: value})
                except NasError as error:
                    raise NasError(f"tune: {error}") from None

    @cached_property
    def tuned(self) -> Mapping[str, BaseDistribution]:
        """Parameter → its values, for each setting to search."""
        return dict(map(parse_tuned, self.tune))

    def values_of(self, setting: str) -> Sequence[Any]:
        """The values of a setting of names: those that are searched, or the one of `train`."""
        distribution: Any = self.tuned.get(PREFIX + setting)
        return [getattr(self.train, setting)] if distribution is None else distribution.choices

    @property
    def name(self) -> str:
        """The name of the space without settings."""
        return self.space.name

    @property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """Those of the space, then the settings."""
        return {**self.space.parameters, **self.tuned}

    @property
    def references(self) -> Mapping[str, Params]:
        """Those of the space, with settings as near to the others' as may be."""
        return {name: {**params, **self._nearest} for name, params in self.space.references.items()}

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network with these parameters."""
        return self.space.decode({name: value for name, value in params.items() if name not in self.tuned})

    def encode(self, architecture: Architecture) -> Params:
        """The parameters of a network, with the same settings as the references."""
        return {**self.space.encode(architecture), **self._nearest}

    @property
    def _nearest(self) -> Params:
        """For each setting, the value nearest to that of `train`."""
        return {name: _nearest(of, getattr(self.train, name.removeprefix(PREFIX))) for name, of in self.tuned.items()}


def _nearest(distribution: Any, value: Any) -> Any:
    """The value of a parameter that is nearest to a number; for a name, the same or the first."""
    if not isinstance(distribution, CategoricalDistribution):
        return type(distribution.low)(min(max(value, distribution.low), distribution.high))
    if isinstance(value, str):
        return value if value in distribution.choices else distribution.choices[0]
    return min(distribution.choices, key=lambda choice: abs(choice - value))


def setting_changes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Setting → value, for the settings among a trial's parameters that have an effect: RandAugment's only with RandAugment, and
    those of a teacher only with one."""
    changes = {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}
    idle = _idle(changes)
    return {name: value for name, value in changes.items() if name not in idle}


def settings_with(train: TrainSettings, params: Mapping[str, Any]) -> TrainSettings:
    """The settings of a trial, from its parameters and those that all trials share.

    Raises: NasError for a value that is not allowed.
    """
    changes, default = setting_changes(params), TrainSettings()
    return replace(train, **changes | {name: getattr(default, name) for name in _idle(changes)})


def _idle(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that have no effect with the parameters of a trial, as far as these decide it."""
    return idle_settings(changes.get("augment", RANDAUGMENT), changes.get("teacher", ""))


def settings_id(params: Mapping[str, Any]) -> str:
    """What tells a trial's settings from others, for the id of its network; empty without settings among its parameters."""
    changes = setting_changes(params)
    text = json.dumps(changes, sort_keys=True)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:NUM_ID_DIGITS]}" if changes else ""


def setting_numbers(tuned: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> tuple[float, ...]:
    """The settings as numbers, for a regression: logarithms on a logarithmic scale, 0 or 1 for each choice but the first."""
    numbers: list[float] = []
    for name, distribution in tuned.items():
        value: Any = params[name]
        if isinstance(distribution, CategoricalDistribution):
            numbers += [float(value == choice) for choice in distribution.choices[1:]]
        else:
            numbers.append(math.log(value) if getattr(distribution, "log", False) else float(value))
    return tuple(numbers)
