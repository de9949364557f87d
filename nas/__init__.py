"""Neural architecture search for mobile networks: from a search space to the Pareto front, and to networks that run elsewhere.

The public names load on first use: reading results imports neither torch nor Ray, training imports no Ray. `__init__.pyi` has
the list of them.
"""

import ast
import importlib
import os
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

try:
    Path.home()
except RuntimeError:  # a user without HOME and without an entry in /etc/passwd; Ray and timm need a home
    os.environ["HOME"] = f"{os.environ.get('TMPDIR') or '/tmp'}/frontier-nas-{os.getuid()}"  # noqa: S108 - as tempfile has it

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))

# Public name → the module that it lives in.
_HOMES = {name.name: line.module for line in _STUB.body if isinstance(line, ast.ImportFrom) for name in line.names}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list of names all the same


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(str(_HOMES[name])), name)


def __dir__() -> list[str]:
    return __all__
