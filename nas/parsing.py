"""How options become values: tyro reads the fields of dataclasses, and our own objects by their names. Read `cli.py` next."""

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from nas.errors import NasError
from nas.plugins import load_plugin, plugin_names

USER_ERROR = 2


def command(function: Callable[..., None]) -> Callable[[list[str]], None]:
    """The command of a function: options are its arguments, and what stands before the slash is given without a name."""

    @wraps(function)
    def run(options: list[str]) -> None:
        parsed(function, args=options, prog=f"nas {function.__name__}")

    return run


def parsed(target: Any, **arguments: Any) -> Any:
    """What tyro makes of the options; its error box becomes one sentence."""
    import tyro

    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):
            return tyro.cli(target, **arguments)
    except SystemExit as stop:
        if stop.code != USER_ERROR:
            raise
    # Beneath a title; the sides are drawn only where the standard output says that its encoding is utf-8.
    inside = [line.strip("│ ") for line in written.getvalue().splitlines()[1:]]
    until = next((i for i, line in enumerate(inside) if line.startswith(("Argument helptext", "For full helptext"))), len(inside))
    sentence = " ".join(line for line in inside[:until] if line.strip("─-╰╯"))
    raise NasError(f"{sentence}; see {arguments['prog']} --help")


def named_plugins(kinds: Sequence[str], options: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(the plug-ins that `--space NAME` or `--dataset NAME` ask for, the options left)."""
    joined = tuple(f"--{kind}=" for kind in kinds)
    left = [part for option in options for part in (option.split("=", 1) if option.startswith(joined) else [option])]
    found = {}
    for kind in kinds:
        while f"--{kind}" in left:
            at = left.index(f"--{kind}")
            if at + 1 == len(left):
                raise NasError(f"--{kind} needs a name; known: {', '.join(plugin_names(kind))}")
            found[kind] = load_plugin(kind, left[at + 1])
            del left[at : at + 2]
    return found, left


def constructors(own: Sequence[Any]) -> Any:
    """How tyro reads the values that are objects of ours."""
    import tyro
    from optuna.samplers import BaseSampler

    from nas.objectives import Limit, Objective, objective, parse_limit

    registry = tyro.constructors.ConstructorRegistry()
    rules: dict[type, tuple[str, Callable[[str], Any], Callable[[Any], str]]] = {
        Objective: ("NAME", lambda text: objective(text, own), lambda value: str(value.name)),
        Limit: ("NAME<NUMBER", lambda text: parse_limit(text, own), str),
        BaseSampler: ("SAMPLER", str, lambda value: type(value).__name__),
    }

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        if info.type not in rules:
            return None
        metavar, read, write = rules[info.type]
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda parts: read(parts[0]),
            is_instance=lambda value: isinstance(value, info.type),
            str_from_instance=lambda value: [write(value)],
        )

    return registry
