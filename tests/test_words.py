"""The project's English: the field's words in names and sentences, and none that need a second reading."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("nas", "search_spaces", "experiments") for path in (ROOT / folder).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

NAMES = frozenset(("told", "asked", "given", "found", "chosen", "known", "keeper", "recipe", "genotype", "utils", "helpers"))
"""Words that carry nothing, or stand for a thing that has another name here; none of them is a name by itself."""
PHRASES = (
    r"turned down",
    r"(gone|goes|go) on (with|from)",
    r"asks beyond",
    r"\b(is|are|was|were) told\b",
    r"\btells? of\b",
    r"\bhold(s|ing)? (it|them) against\b",
    r"\bheld against\b",
    r"\brecipes?\b",
    r"\brepeated (proposal|network)s?\b",
    r"\badmit(s|ted)?\b",
    r"\bof those\b.*\bthat\b.*\bthat\b",
)
"""Sentences with these need a second reading, or name a thing by a word that is not the project's."""


def sentences(path):
    """(line, text) of every docstring, comment and message of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def names(path):
    """(line, name) of every name that a file defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_needs_a_second_reading(path):
    phrases = re.compile("|".join(PHRASES), re.IGNORECASE)
    assert not [f"{path}:{line}: {text}" for line, text in sentences(path) if phrases.search(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_the_things_own(path):
    assert not [f"{path}:{line}: {name}" for line, name in names(path) if name.strip("_").lower() in NAMES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_with_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert not node.value.value.lstrip().startswith("Of "), f"{path}:{node.lineno}"
