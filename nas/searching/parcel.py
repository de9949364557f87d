"""What goes to worker processes: pickled once, with the code of the user's own files, and unpickled once before a run begins."""

import ast
import io
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from ray import cloudpickle

from nas.errors import NasError, describe_error
from nas.plugins import OWN_PACKAGES, USER_PREFIX, user_file, user_modules
from nas.searching.unpack import HOME, Sources

CHECK_SECONDS: Final = 300
SCRIPT: Final = "the notebook or script"  # whose classes and functions are in `__main__`
CHECK: Final = """
import sys
try:
    import nas
except ImportError:
    sys.path.append(sys.argv[1])
from nas.searching.unpack import check
check()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A pickled object, and what its unpickling needs."""

    data: bytes
    files: tuple[str, ...]
    """The user's files whose code is in it; SCRIPT stands for `__main__`."""

    def check(self) -> None:
        """Unpickle the object in a process that stands in an empty folder, as a worker process on another machine does.

        Does nothing if it has no code of the user's.

        Raises: NasError if it cannot be unpickled there.
        """
        if not self.files:
            return
        with tempfile.TemporaryDirectory(prefix="nas-") as empty:
            line = [sys.executable, "-P", "-c", CHECK, HOME]
            answer = subprocess.run(line, input=self.data, cwd=empty, capture_output=True, timeout=CHECK_SECONDS, check=False)
        if answer.returncode != 0:
            lines = answer.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {answer.returncode}"]
            raise NasError(f"{', '.join(self.files)}: its objects cannot be rebuilt in a worker process: {lines[-1][:500]}")


def pack(value: object) -> Parcel:
    """The parcel of an object: classes, functions and modules of the user's own files go by value, all others by name.

    Raises: NasError if a part of the object cannot be pickled, such as a lock or an open file.
    """
    modules, buffer = user_modules(), io.BytesIO()
    with _by_value(modules):
        pickler = _Pickler(buffer, modules)
        try:
            pickler.dump(value)
        except Exception as error:  # noqa: BLE001 - whatever the user's objects raise
            where = _place(pickler.last, value, pickler.sent)
            raise NasError(
                f"{where} is a {type(pickler.last).__name__}, which cannot be sent to worker processes "
                f"({describe_error(error)}); make it inside the function that uses it"
            ) from None
    files = {str(user_file(name)) if user_file(name) else SCRIPT for name in pickler.own}
    return Parcel(data=cloudpickle.dumps((_sources(pickler.sent), buffer.getvalue())), files=tuple(sorted(files)))


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # Ray has no types for it
    """Remembers what it pickles last, which is what cannot be pickled after an error, and whose code it sends."""

    def __init__(self, buffer: io.BytesIO, modules: list[ModuleType]) -> None:
        super().__init__(buffer)
        self.last: Any = None
        self.own: set[str] = set()
        self._users = {module.__name__ for module in modules} | {"__main__"}

    @property
    def sent(self) -> list[ModuleType]:
        """The modules whose code is sent."""
        return [sys.modules[name] for name in sorted(self.own)]

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle an object. Raises: TypeError for an open file, which cloudpickle would copy."""
        self.last = obj
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
            raise TypeError("cannot pickle an open file")
        if isinstance(obj, type | FunctionType) and obj.__module__ in self._users:
            self.own.add(obj.__module__)
        return super().reducer_override(obj)


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _place(culprit: object, value: object, modules: list[ModuleType]) -> str:
    """The file and the name of an object: a global of a user's file, or the way to it from the value that is sent."""
    for module in modules:
        for name, held in list(vars(module).items()):
            if held is culprit:
                return f"{user_file(module.__name__) or SCRIPT}: {name}"
    owners: deque[tuple[object, str, object]] = deque([(value, "", SCRIPT)])
    for module in modules:
        place = str(user_file(module.__name__) or SCRIPT)
        owners += [(held, name, place) for name, held in list(vars(module).items()) if not name.startswith("__")]
    seen: dict[int, object] = {}  # kept alive, as ids are reused
    while owners and len(seen) < 10_000:
        owner, way, file = owners.popleft()
        file = user_file(str(getattr(owner, "__module__", ""))) or file
        for name, held in _parts(owner):
            if held is culprit:
                return f"{file}: {(way + name).lstrip('.')}"
            if id(held) not in seen:
                seen[id(held)] = held
                owners.append((held, way + name, file))
    return ", ".join(str(file) for module in modules if (file := user_file(module.__name__))) or SCRIPT


def _parts(owner: object) -> list[tuple[str, object]]:
    """(name, part) of what an object holds: fields, items, and what a function refers to."""
    if isinstance(owner, ModuleType | type(None) | str | bytes | int | float):
        return []
    if isinstance(owner, Mapping):
        return [(f"[{key!r}]", held) for key, held in owner.items()]
    if isinstance(owner, list | tuple | set | frozenset):
        return [(f"[{index}]", held) for index, held in enumerate(owner)]
    parts = []
    if isinstance(owner, FunctionType):
        cells = zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True)
        parts += [(f".{name}", cell.cell_contents) for name, cell in cells]
        parts += [(f".{name}", owner.__globals__.get(name)) for name in owner.__code__.co_names]
    slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(owner, name)]
    fields = {name: getattr(owner, name) for name in slots if isinstance(name, str)} | dict(getattr(owner, "__dict__", {}))
    return parts + [(f".{name}", held) for name, held in fields.items()]


def _sources(modules: list[ModuleType]) -> Sources:
    """Name → (file, source) of the files beside these modules that their functions may import when they run."""
    sources: Sources = {}
    looked: set[tuple[Path, str]] = set()
    for module in modules:
        root, texts = _root_and_texts(module)
        while texts:
            tops = {(root, top) for top in _imported(texts.pop())} - looked
            looked |= tops
            new = {name: (str(file), _text(file)) for _, top in tops for name, file in _files(root, top) if name not in sources}
            sources |= new
            texts += [text for _, text in new.values()]
    return sources


def _root_and_texts(module: ModuleType) -> tuple[Path, list[str]]:
    """(the folder that a user's module imports the files beside it from, its source); a notebook has a text for each cell."""
    file = user_file(module.__name__)
    if file is not None:
        depth = 0 if module.__name__.startswith(USER_PREFIX) else module.__name__.count(".") + (file.stem == "__init__")
        return file.parents[depth], [_text(file)]
    if isinstance(script := getattr(module, "__file__", None), str):
        return Path(script).resolve().parent, [_text(Path(script))]
    return Path.cwd(), [cell for cell in vars(module).get("In", ()) if isinstance(cell, str)]


def _imported(text: str) -> set[str]:
    """The top-level names that a source imports anywhere."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):  # no Python, or a cell with a command of the notebook's
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OWN_PACKAGES


def _files(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """(module, file) of a module of one file, or of a folder with all below it; a folder without `__init__.py` stands for it."""
    if (root / f"{name}.py").is_file():
        yield name, root / f"{name}.py"
    elif (root / name).is_dir():
        folders = {file.parent for file in (root / name).rglob("*.py")}
        for folder in folders:
            package = ".".join(folder.relative_to(root).parts)
            yield package, folder / "__init__.py"
            for file in folder.glob("*.py"):
                if file.stem != "__init__":
                    yield f"{package}.{file.stem}", file


def _text(file: Path) -> str:
    """The source in a file; none for a folder without `__init__.py`."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def in_worker(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of ours for Ray to run in a worker process, where it finds this project and no file of the working folder."""
    return _standalone(function.__module__, function.__qualname__, HOME)


def _standalone(module: str, name: str, home: str) -> Callable[..., Any]:
    """Such a function. Ray sends it by value, as it is local, so that the worker runs it before it imports anything of ours."""

    def call(*arguments: Any, **options: Any) -> Any:
        from importlib import import_module, util

        # Ray puts the driver's folders before its own; a file there called nas.py or timm.py would be imported in place of ours.
        ends = ("ray/thirdparty_files", "ray/_private/workers")
        own = [index for index, entry in enumerate(sys.path) if entry.replace(os.sep, "/").endswith(ends)]
        del sys.path[: min(own, default=0)]
        if util.find_spec("nas") is None:
            sys.path.append(home)
        return getattr(import_module(module), name)(*arguments, **options)

    call.__name__ = name
    return call
