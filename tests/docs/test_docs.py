"""The documentation is true: each page's commands parse or run, its snippets run in their order, and its outputs are real.

A block runs in a folder of the page's own that holds one finished run and an export of it. `bash` is parsed, `console` is run
and its output compared, `python` is run, or written to the file of its title. A comment `<!-- not run: why -->` above a block
leaves it parsed.
"""

import ast
import importlib.util
import inspect
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import pytest
import tyro

import nas
from tests.conftest import type_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
RUN = "runs/digits_mobilenetv3-20261129-075242"  # the run that the pages show
SEARCH = "nas search digits_mobilenetv3"
EXPORT = f"nas export {RUN} --best val_top1_pct --output ./net"
SHORTER = ("--trials", 8, "--train.epochs", 1)  # the same search in less time, of as many networks as a surrogate needs
OTHER_PROGRAMS = ("cd", "docker", "git", "pip", "pipx", "ray", "uv", ".venv/bin/pip", ".venv/bin/python")
pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    title: str
    body: str
    runs: bool

    @property
    def commands(self):
        """(command, its output) in the order of the block; only `console` has outputs."""
        body = re.sub(r"\\\n\s*", "", self.body)
        if self.language == "bash":
            return [(line, "") for line in body.splitlines() if line.strip() and not line.startswith("#")]
        return [tuple(part.partition("\n")[::2]) for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]]


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        title = re.search(r'title="(.*?)"', match["info"])
        yield Block(
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            title=title[1] if title else "",
            body=inspect.cleandoc(match["body"]) + "\n",
            runs=match["reason"] is None,
        )


@pytest.fixture(scope="module")
def searched(tmp_path_factory, running_ray):
    """(run, what its search printed)."""
    folder = tmp_path_factory.mktemp("searched")
    answer = type_command(*SEARCH.split()[1:], *SHORTER, cwd=folder)
    assert answer.code == 0, answer.errors
    return next((folder / "runs").iterdir()), answer.printed


@pytest.fixture
def folder(searched, digits_export, tmp_path, monkeypatch):
    """Where the reader works: with a finished run, an export of its best network, and every file that a page shows."""
    shutil.copytree(searched[0], tmp_path / RUN)
    shutil.copytree(digits_export, tmp_path / "net")
    for block in (block for page in PAGES for block in blocks_of(page) if block.title):
        (tmp_path / block.title).write_text(block.body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def outputs(searched, finished):
    """Command → what it printed; what another page or the whole suite has run is not run again."""
    return {SEARCH: searched[1], EXPORT: (finished / "exported").read_text()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page, folder, outputs, request):
    blocks = list(blocks_of(page))
    assert len(blocks) == len(re.findall(r"^ *```\w", page.read_text(encoding="utf-8"), re.MULTILINE))
    names = {}
    for block in blocks:
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.language == "python":
            run_snippet(block, names, where)
        elif block.language in ("bash", "console"):
            for line, output in block.commands:
                check_command(line, folder, where)
                if block.runs and block.language == "console":
                    if line not in outputs:
                        outputs[line] = printed_by(line, folder, request)
                    compare(output, outputs[line], exact=is_exact(line), where=where)
        else:
            assert block.language == "text", f"{where}: is the block bash, console, python or text?"
            assert not re.search(r"^(\$ )?nas ", block.body, re.MULTILINE), f"{where}: a command is not text"


def run_snippet(block, names, where):
    """Run a snippet after those above it, unless it is a file; what it names in `nas` exists."""
    code = compile(block.body, where, "exec")
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and node.module == "nas":
            assert {name.name for name in node.names} <= set(nas.__all__), where
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nas":
            assert node.attr in nas.__all__, where
    if block.runs and not block.title:
        exec(code, names)


class Parsed(BaseException):
    """A command's options are right; it stops before it does anything."""


def check_command(line, folder, where):
    """A command exists, and so do its options."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), where
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), where
    elif words[0] == "nas":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tyro, "cli", parse_only(tyro.cli))
            try:
                answer = type_command(*words[1:], cwd=folder)
            except Parsed:
                return
        assert answer.code == 0, f"{where}: {line}\n{answer.errors}"
    else:
        assert words[0] in OTHER_PROGRAMS or words[:3] == ["python3", "-m", "venv"], f"{where}: {line}"


def parse_only(cli):
    """tyro's own parser, after which nothing is done."""

    def parse(target, **arguments):
        if not inspect.isfunction(target):
            cli(target, **arguments)
            raise Parsed

        @wraps(target)
        def stop(*args, **kwargs):
            raise Parsed

        return cli(stop, **arguments)

    return parse


def printed_by(line, folder, request):
    """What a command prints."""
    words = shlex.split(line, comments=True)
    if words[1] in ("search", "resume"):
        request.getfixturevalue("running_ray")
    answer = type_command(*words[1:], cwd=folder)
    assert answer.code == 0, f"{line}\n{answer.errors}"
    return answer.printed


def is_exact(line):
    """Whether a command prints the same everywhere; one that reads a run or a clock prints other numbers here."""
    return line.startswith(("nas scale", "nas space")) and "runs/" not in line


def compare(shown, printed, *, exact, where):
    """Every line that a page shows is printed, but for the numbers; `…` stands for lines that are left out."""
    lines = {masked(line, exact=exact) for line in printed.splitlines()}
    for line in shown.splitlines():
        if line.strip() not in ("", "…"):
            assert masked(line, exact=exact) in lines, f"{where}: {line!r} is not in\n{printed}"


def masked(line, *, exact):
    words = " ".join(line.split())
    if exact:
        return words
    words = re.sub(r"/\S*/runs/", "runs/", words)
    return re.sub(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "#", re.sub(r"\b[0-9a-f]{16}\b", "ID", words))


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: \S+\.(\w+)$", page, re.MULTILINE)) == nas.__all__


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http|#)(.*?)[)#]", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
