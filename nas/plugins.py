"""Loads spaces, datasets, objectives, trackers and experiments by the name of their file or by its path."""

import ast
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from nas.errors import NasError, unknown_name, user_code
from nas.paths import absolute

# Kind of plug-in → the package of its files, and the name that each file exports.
PACKAGES: Final = {
    "space": ("search_spaces", "SPACE"),
    "dataset": ("nas.datasets", "DATASET"),
    "objective": ("nas.objectives", "OBJECTIVE"),
    "tracker": ("nas.trackers", "TRACKER"),
    "experiment": ("experiments", "EXPERIMENT"),
}
USER_PREFIX: Final = "_nas_user_"  # of the private names of modules that are loaded by path
OWN_PACKAGES: Final = frozenset(("nas", "search_spaces", "experiments"))
STANDARD_LIBRARY: Final = Path(ast.__file__).resolve().parent
_FOLDERS: Final[list[str]] = []  # of the user's files, at the end of sys.path, the last one loaded first


def plugin_names(kind: str) -> tuple[str, ...]:
    """The names of the plug-ins that come with the package, sorted."""
    package = importlib.import_module(PACKAGES[kind][0])
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg))


def plugin_summary(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring, read without executing the file."""
    package = importlib.import_module(PACKAGES[kind][0])
    source = Path(package.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def load_plugin(kind: str, name: str) -> Any:
    """The object that a plug-in exports, by the plug-in's name or by the path of a user's file.

    Raises: NasError for an unknown name, or for a file that is missing, raises an error, or does not export the object.
    """
    package, attribute = PACKAGES[kind]
    if _is_path(name):
        module = load_module(absolute(name))
    elif name in plugin_names(kind):
        module = importlib.import_module(f"{package}.{name}")
    else:
        raise unknown_name(kind, name, plugin_names(kind))
    if not hasattr(module, attribute):
        raise NasError(f"{name} exports no {attribute}; define {attribute} = ... at the top level of the file")
    return getattr(module, attribute)


def absolute_plugin(name: str) -> str:
    """The name of a plug-in, or the absolute path of a user's file, so that it means the same in every folder."""
    return str(absolute(name)) if _is_path(name) else name


def check_plugins(kind: str, names: object, *, field: str) -> None:
    """Check that the value of a field is a tuple of names of plug-ins or paths of files, each once. Executes no file.

    Raises: NasError if it is not.
    """
    if not isinstance(names, tuple):
        raise NasError(f"{field}: {names!r} is a {type(names).__name__}; it must be a tuple of names")
    for name in names:
        if not isinstance(name, str):
            raise NasError(f"{field}: {name!r} is a {type(name).__name__}; give a {kind}'s name, or the path of a file with one")
        if names.count(name) > 1:
            raise NasError(f"{field}: {name} is there twice; give it once")
        if not _is_path(name) and name not in plugin_names(kind):
            raise unknown_name(kind, name, plugin_names(kind))


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def check_type(field: str, value: object, expected: type) -> None:
    """Check that the value of a field is an instance of `expected`, a class of `nas`.

    Raises: NasError if it is not.
    """
    if not isinstance(value, expected):
        raise NasError(f"{field}: {value!r} is a {type(value).__name__}; it must be a nas.{expected.__name__}")


def load_module(path: Path) -> ModuleType:
    """The module in a file, executed anew. It can import the files beside it, which hide no installed package.

    Its name in `sys.modules` is private, so that it hides no module either, whatever the file is called.

    Raises: NasError if the file is missing, is not Python, or raises an error.
    """
    if not path.is_file():
        raise NasError(f"{path} is not a file; give a name that `nas` knows or the path of a Python file")
    file = path.resolve()
    name = f"{USER_PREFIX}{sha256(os.fsencode(file)).hexdigest()[:12]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NasError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with user_code(str(path)), _importing_from(file.parent):
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            if "relative import" not in str(error):
                raise
            raise NasError(f"{error}; import the files beside it by their names, without a dot") from None
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let imports find the files of a user's folder, from now on, but last.

    Modules of the same names from the user's other folders are set aside meanwhile.
    """
    beside = {entry.stem for entry in folder.iterdir() if entry.is_dir() or entry.suffix == ".py"}
    others = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in beside and (file := user_file(name)) and not file.is_relative_to(folder)
    }
    for name in others:
        del sys.modules[name]
    if str(folder) not in sys.path or str(folder) in _FOLDERS:
        sys.path[:] = [entry for entry in sys.path if entry not in _FOLDERS]
        _FOLDERS[:] = [str(folder), *(entry for entry in _FOLDERS if entry != str(folder))]
        sys.path += _FOLDERS
    try:
        yield
    finally:
        sys.modules.update(others)


def user_modules() -> list[ModuleType]:
    """The loaded modules that the user wrote. A worker process cannot import them, so their code has to be sent."""
    return [module for name, module in list(sys.modules.items()) if user_file(name)]


def user_file(module: str) -> Path | None:
    """The file of a loaded module that a user wrote; None for the main script and for installed packages."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(file, str) or not Path(file).is_absolute():  # built in, or torch.ops, which names a file that is not there
        return None
    if module.partition(".")[0] in OWN_PACKAGES | {"__main__"}:
        return None
    path = Path(file).resolve()
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or path.is_relative_to(STANDARD_LIBRARY)
    return None if installed else path
