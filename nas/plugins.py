"""Spaces, datasets, objectives and experiments, found by the name of their file or by its path."""

import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from nas.errors import NasError, unknown, users_code

# Where the plug-ins of each kind lie, and the name that each file exports.
PACKAGES: Final = {
    "space": ("search_spaces", "SPACE"),
    "dataset": ("nas.datasets", "DATASET"),
    "objective": ("nas.objectives", "OBJECTIVE"),
    "experiment": ("experiments", "EXPERIMENT"),
}
STANDARD_LIBRARY: Final = Path(ast.__file__).resolve().parent


def plugin_names(kind: str) -> tuple[str, ...]:
    """The names of the plug-ins that come with the package, sorted."""
    package = importlib.import_module(PACKAGES[kind][0])
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg))


def summary(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring, read without running it."""
    package = importlib.import_module(PACKAGES[kind][0])
    source = Path(package.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def load_plugin(kind: str, name: str) -> Any:
    """What a plug-in exports, by its name or by the path of a file of one's own.

    Raises: NasError if there is none of that name, or if the file is missing, raises, or does not export it.
    """
    package, exported = PACKAGES[kind]
    if name.endswith(".py") or "/" in name:
        module = module_at(Path(name))
    elif name in plugin_names(kind):
        module = importlib.import_module(f"{package}.{name}")
    else:
        raise unknown(kind, name, plugin_names(kind))
    if not hasattr(module, exported):
        raise NasError(f"{name} exports no {exported}; define {exported} = ... at the top level of the file")
    return getattr(module, exported)


def check_kind(field: str, value: object, kind: type) -> None:
    """Refuse a value that is not of a class.

    Raises: NasError.
    """
    if not isinstance(value, kind):
        raise NasError(f"{field}: {value!r} is a {type(value).__name__}; it must be a nas.{kind.__name__}")


def module_at(path: Path) -> ModuleType:
    """The module in a file, which may import its neighbours as if it were run as a script."""
    if not path.is_file():
        raise NasError(f"{path} is not a file; give a name that `nas` knows or the path of a Python file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NasError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with users_code(str(path)):
        spec.loader.exec_module(module)
    return module


def modules_beside(values: Sequence[object]) -> list[ModuleType]:
    """The modules of a user's own files that these values come from, with every module imported from beside or below them.

    A worker process cannot import them by name, so they have to be sent by value.
    """
    names = {getattr(value, "__module__", type(value).__module__) for value in values}
    folders = {file.parent for name in names if (file := own_file(name))}
    loaded = list(sys.modules.items())
    return [module for name, module in loaded if (file := own_file(name)) and not folders.isdisjoint(file.parents)]


def own_file(module: str) -> Path | None:
    """The file of a loaded module that a user wrote; None for a script that runs, and for what is installed."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(file, str) or module.partition(".")[0] in ("nas", "search_spaces", "experiments", "__main__"):
        return None
    path = Path(file).resolve()
    return None if "site-packages" in path.parts or path.is_relative_to(STANDARD_LIBRARY) else path
