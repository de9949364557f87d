"""Writes FrontierSampler as a package of the OptunaHub registry, which needs Optuna, NumPy and SciPy, but not frontier-nas.

The package has the files of `nas/sampler/` and `nas/errors.py` as they are, but for the names in their imports, the project's
licence, and what lies in `frontier/` beside this file. It becomes REGISTRY/package/samplers/frontier.

Usage: python -m experiments.optunahub REGISTRY
REGISTRY is a clone of github.com/optuna/optunahub-registry, or any folder. That registry takes only the MIT license;
who hands the package in must hold the right to give it so.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import nas
from nas.cli.app import USER_ERROR
from nas.errors import NasError
from nas.files import atomic_folder

TEMPLATE: Final = Path(__file__).parent / "frontier"
NAS: Final = Path(nas.__file__).parent
OWN_IMPORT: Final = re.compile(r"^(\s*from )nas\.(?:sampler\.)?(\w+ import )", re.MULTILINE)


def write_package(registry: Path) -> Path:
    """The folder of the package, newly written.

    Raises: NasError if it exists already, or cannot be written.
    """
    target = registry / "package" / "samplers" / "frontier"
    modules = [path for path in (NAS / "sampler").glob("*.py") if path.name != "__init__.py"]
    with atomic_folder(target, check_new) as folder:
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(NAS.parent / "LICENSE", folder)
        for path in (TEMPLATE / "__init__.py", NAS / "errors.py", *modules):
            (folder / path.name).write_text(with_relative_imports(path.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def check_new(target: Path) -> None:
    """Check that nothing is replaced.

    Raises: NasError if the folder exists.
    """
    if target.exists():
        raise NasError(f"{target} exists already; delete it, or give another folder")


def with_relative_imports(source: str) -> str:
    """The source of a file of the sampler, as a file of a folder that holds them all."""
    return OWN_IMPORT.sub(r"\1.\2", source)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command line, which prints where the package is."""
    parser = argparse.ArgumentParser(prog="optunahub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("registry", type=Path)
    try:
        print(write_package(parser.parse_args(arguments).registry))
    except NasError as error:
        print(f"optunahub: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
