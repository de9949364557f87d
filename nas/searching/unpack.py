"""The worker's side of a parcel. Imports nothing that the parcel itself does not need."""

import gc
import pickle
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from nas.plugins import USER_PREFIX

Sources = dict[str, tuple[str, str]]
HOME: Final = str(Path(__file__).resolve().parents[2])  # the folder that holds this project


class _SentFiles(MetaPathFinder, Loader):
    """Imports the user's files from a parcel, after all that is installed."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """The module, if the parcel has it."""
        if fullname not in self.sources:
            return None
        file = self.sources[fullname][0]
        package = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        return spec_from_file_location(fullname, file, loader=self, submodule_search_locations=package)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file's source."""
        file, source = self.sources[module.__name__]
        exec(compile(source, file, "exec"), vars(module))  # noqa: S102 - the user's own code, which runs here as on the driver


def unpack(data: bytes) -> Any:
    """The object in a parcel's data."""
    sources, pickled = pickle.loads(data)  # noqa: S301 - the driver's own
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != _SentFiles.__name__]
    sys.meta_path.append(_SentFiles(sources))
    gc.freeze()  # what was there before
    try:
        value = pickle.loads(pickled)  # noqa: S301
        _name_modules(gc.get_objects())
    finally:
        gc.unfreeze()
    return value


def _name_modules(objects: list[Any]) -> None:
    """Let the user's new functions and classes be found by name, as their process pools do: no module came with them."""
    for one in objects:
        if type(one) is not FunctionType and not issubclass(type(one), type):
            continue
        if str(one.__module__).startswith(USER_PREFIX) and one.__qualname__ == one.__name__:
            setattr(sys.modules.setdefault(one.__module__, ModuleType(one.__module__)), one.__name__, one)


def check() -> None:
    """Unpack what comes in, and answer with the exit code and one line of error."""
    try:
        unpack(sys.stdin.buffer.read())
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
        sys.exit(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
