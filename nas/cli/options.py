"""How options become values: tyro reads the fields of dataclasses, and our own objects by their names."""

import argparse
import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, TypeAlias

from nas.errors import NasError, unknown_name
from nas.plugins import load_plugin

USER_ERROR = 2
HELP: Final = frozenset(("-h", "--help"))

Command: TypeAlias = Callable[[list[str]], None]


def command(function: Callable[..., None]) -> Command:
    """The command of a function: options are its arguments, and what stands before the slash is given without a name.

    The fields of an argument that is a dataclass are options too.
    """

    @wraps(function)
    def run(options: list[str]) -> None:
        import tyro

        config = (tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction)
        parsed(function, args=options, prog=f"nas {function.__qualname__.replace('_', ' ')}", config=config)

    return run


def choose(commands: Mapping[str, Command], arguments: Sequence[str], *, prog: str, purpose: str) -> None:
    """Run the command that the first argument names, with the others; without one, list the commands below their purpose.

    Raises: NasError if there is none of that name.
    """
    if not arguments or arguments[0] in HELP:
        lines = [f"  {prog} {name:<9} {(found.__doc__ or '').splitlines()[0]}" for name, found in commands.items()]
        print("\n".join([purpose, "", *lines, "", "Each has --help."]))
    elif arguments[0] not in commands:
        raise unknown_name(f"{prog} command".removeprefix("nas "), arguments[0], commands)
    else:
        commands[arguments[0]](list(arguments[1:]))


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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in kinds:
        parser.add_argument(f"--{kind}")
    try:
        found, left = parser.parse_known_args(options)
    except argparse.ArgumentError as error:
        raise NasError(f"{error.argument_name} needs a name") from None
    return {kind: load_plugin(kind, name) for kind, name in vars(found).items() if name is not None}, left


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
