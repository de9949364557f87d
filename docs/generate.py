"""Makes the pages that have another source while mkdocs builds: the commands' options, the tables' columns, CONTRIBUTING.md."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from nas.cli.app import COMMANDS
from nas.runs.columns import documentation

WIDTH = 90  # characters of a help text
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
EXPERIMENT = "digits_mobilenetv3"  # `search` has the options of the experiment that it is given


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to those that are written by hand."""
    pages = {
        "reference/cli.md": "\n".join(command_pages()),
        "reference/tables.md": documentation(),
        "contribute.md": CONTRIBUTING.read_text(encoding="utf-8").replace("](docs/", "]("),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def command_pages() -> Iterator[str]:
    """The page of the commands, a section each, as `--help` prints it."""
    yield "# Commands\n\nEvery command prints its options with `--help`. This page is made from them.\n"
    for command in COMMANDS:
        arguments = [*command.split(), *([EXPERIMENT] if command == "search" else [])]
        yield f"## nas {command}\n\n```text\n{help_of(arguments)}\n```\n"


def help_of(arguments: list[str]) -> str:
    """What a command prints for `--help`, without a terminal's colours."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "nas", *arguments, "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, encoding="utf-8")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed.stdout).strip().splitlines()
    return "\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in lines)
