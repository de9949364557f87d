"""The `nas` command: finds the command that the user typed, lets tyro parse its options, and turns errors into exit codes.

`GROUPS` names each command's module, and only that of the typed command is imported. Read next: search.py.
"""

import ast
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Final

from nas.cli.streams import replace_streams
from nas.errors import NasError, unknown_name
from nas.paths import expanded

GROUPS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "search": (
        "nas search digits_mobilenetv3 --trials 24",
        {"search": "search", "resume": "search", "space": "search", "runs": "results", "clean": "results"},
    ),
    "look": ("nas table RUN --front", dict.fromkeys(("table", "report", "compare", "verify", "dashboard"), "results")),
    "take away": (
        "nas export RUN --best val_top1_pct",
        {"export": "export", "push": "export", "train": "export", "scale": "scale"},
    ),
    "latency": (
        "nas latency build mobilenetv3 --resolution 224",
        dict.fromkeys(("measure", "latency build", "latency check", "latency sample"), "latency"),
    ),
    "when it does not work": ("nas doctor --json", {"doctor": "doctor"}),
}
"""Group → (an example, command → the module with its function)."""
COMMANDS: Final = {name: module for _, commands in GROUPS.values() for name, module in commands.items()}
READS_OWN_OPTIONS: Final = frozenset(("search", "resume", "train"))  # options depend on the experiment, run or dataset
ONLY_PRINT: Final = frozenset(
    ("runs", "table", "compare", "space", "measure", "doctor")
)  # a failure if their output cannot be written
REPEATABLE: Final = frozenset(
    ("--baselines", "--limit", "--log", "--objectives", "--reuse", "--start", "--tune")
)  # options of several values that may also be given once for each
FIRST: Final = {"search": "an experiment", "resume": "a run"}  # command → what comes before its options
HELP: Final = frozenset(("-h", "--help"))
USER_ERROR: Final = 2


def main() -> None:
    """Run the command that the process was started with; it is done although its output is lost, unless it only prints."""
    output = replace_streams()
    code = run(sys.argv[1:])
    sys.stdout.flush()
    reader_left = isinstance(output.lost, BrokenPipeError)  # such as `head`, which has seen enough
    if code == 0 and output.lost and not reader_left and ONLY_PRINT.intersection(sys.argv[1:2]):
        print(f"nas: the output cannot be written: {output.lost.strerror}", file=sys.stderr)
        code = USER_ERROR
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 2 after a user's mistake, which is printed by us or by tyro."""
    try:
        return _run(list(arguments))
    except NasError as error:
        print(f"nas: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"nas: {_file_of(error)} cannot be used: {error.strerror or error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print("nas: interrupted; finished work is kept", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)  # as a shell reports a process that a signal ended


def _run(words: list[str]) -> int:
    if set(words) - HELP <= {"latency"}:  # the first word of two commands, but no command by itself
        _print_help()
        return 0
    if words[0] == "--version":
        print(import_module("nas").__version__)
        return 0
    number = 2 if words[0] == "latency" else 1
    name, options = " ".join(words[:number]), [expanded(word) for word in words[number:]]
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command = getattr(import_module(f"nas.cli.{COMMANDS[name]}"), name.replace(" ", "_"))
    for before, word in pairwise([name, *options]):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise NasError(
                f"the value of {word.rstrip('=') or before} is empty, as a shell's unset variable is; give one, or leave it out"
            )
    if name in FIRST and options and options[0].startswith("--") and options[0] not in HELP:
        raise NasError(f"nas {name} takes {FIRST[name]} first, and {options[0]} after it")
    options = _joined(options)
    flags = [word.partition("=")[0].replace("_", "-") for word in options if word.startswith("--")]
    if repeated := [flag for flag in flags if flags.count(flag) > 1]:
        raise NasError(f"{repeated[0]} is given twice; give it once, with all its values after it")
    try:
        if name in READS_OWN_OPTIONS:
            command(options)
        else:
            import tyro

            conf = tyro.conf
            markers = (conf.OmitArgPrefixes, conf.PositionalMetavarFromFieldName, conf.FlagCreatePairsOff, conf.DisallowNone)
            tyro.cli(command, args=options, prog=f"nas {name}", config=markers)
    except SystemExit as stop:  # tyro has printed the help or a mistake
        return int(stop.code or 0)
    return 0


def _joined(options: list[str]) -> list[str]:
    """The options, with the values of a repeated one together: `--limit A --limit=B` is `--limit A B`."""
    others: list[str] = []
    repeatable: dict[str, list[str]] = {}
    words = others  # to which the next words belong
    for word in options:
        name, equals, value = word.partition("=")
        if name in REPEATABLE:
            words = repeatable.setdefault(name, [name])
            words += [value] * bool(equals)
        else:
            words = others if word.startswith("--") else words
            words.append(word)
    return others + [word for values in repeatable.values() for word in values]


def _file_of(error: OSError) -> str:
    """The file that an error is about, or the working folder if that is gone."""
    with suppress(FileNotFoundError):
        Path.cwd()
        return str(error.filename or "a file")
    return "the working folder"


def _print_help() -> None:
    """Print the commands by group, without importing their modules."""
    print("Search mobile networks, look at the results, take networks away.\n")
    for title, (example, commands) in GROUPS.items():
        print(title)
        for name, module in commands.items():
            print(f"  nas {name:<14} {_summaries(module)[name.replace(' ', '_')]}")
        print(f"  for example: {example}\n")
    print("Each command has --help.")


@cache
def _summaries(module: str) -> dict[str, str]:
    """The first line of the docstring of each function in a module."""
    functions = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")).body
    return {one.name: (ast.get_docstring(one) or "").partition("\n")[0] for one in functions if isinstance(one, ast.FunctionDef)}
