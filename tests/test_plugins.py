"""Plug-ins are found by the name of their file or by a path, and every mistake with them is answered in one sentence."""

import sys
from dataclasses import replace

import pytest

import nas
from nas.plugins import PACKAGES, load_plugin, plugin_names, plugin_summary, user_modules


@pytest.mark.parametrize("kind", PACKAGES)
def test_every_plugin_exports_what_its_kind_exports_and_says_what_it_is(kind):
    assert plugin_names(kind)
    for name in plugin_names(kind):
        assert load_plugin(kind, name) is not None
        line = plugin_summary(kind, name)
        assert line.endswith(".")
        assert 20 < len(line) <= 130


@pytest.mark.parametrize("kind", PACKAGES)
def test_an_unknown_name_is_answered_with_the_known_ones(kind):
    with pytest.raises(nas.NasError) as caught:
        load_plugin(kind, "zzz")
    assert str(caught.value).startswith(f"{kind} 'zzz' does not exist; known: ")
    assert plugin_names(kind)[0] in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "is not a file"),
        ("x = 1\n", "exports no EXPERIMENT"),
        ("1 / 0\n", "raised ZeroDivisionError: division by zero"),
        ("def f(:\n", "raised SyntaxError"),
        ("import nowhere\n", "raised ModuleNotFoundError: No module named 'nowhere'"),
        ("from .beside import x\n", "import the files beside it by their names, without a dot"),
        ("import nas\nnas.reference('x')\n", "reference 'x' does not exist"),
        ("raise SystemExit(5)\n", "raised SystemExit: 5"),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_in_one_sentence(tmp_path, source, sentence):
    path = tmp_path / "mine.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(nas.NasError, match=sentence) as caught:
        load_plugin("experiment", str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_import_its_neighbours_and_both_are_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "inner_of_mine").mkdir()
    (tmp_path / "inner_of_mine" / "deep.py").write_text("VALUE = 3\n")
    (tmp_path / "neighbour_of_mine.py").write_text("from inner_of_mine.deep import VALUE\nclass Thing:\n    value = VALUE\n")
    (tmp_path / "own_space.py").write_text("from neighbour_of_mine import Thing\nclass Mine(Thing): pass\nSPACE = Mine()\n")
    thing = load_plugin("space", str(tmp_path / "own_space.py"))
    assert thing.value == 3
    names = {module.__name__ for module in user_modules()}
    assert {"neighbour_of_mine", type(thing).__module__, "inner_of_mine.deep"} <= names
    assert not {name for name in names if name.partition(".")[0] in ("nas", "search_spaces", "experiments", "torch", "ray")}


@pytest.mark.parametrize("name", ["types", "torch", "nas", "timm"])
def test_a_file_hides_no_module_whatever_its_name_or_its_neighbours_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"{name}.py").write_text("SPACE = 5\n")
    (tmp_path / "beside.py").write_text(f"import {name}\nSPACE = {name}.__file__\n")
    before = sys.modules.get(name)
    assert load_plugin("space", str(tmp_path / f"{name}.py")) == 5
    assert sys.modules.get(name) is before
    assert not load_plugin("space", str(tmp_path / "beside.py")).startswith(str(tmp_path))


def test_two_files_of_one_name_each_find_their_own_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper_of_mine.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "mine.py").write_text("from helper_of_mine import NAME\nclass Thing: name = NAME\nSPACE = Thing()\n")
    first, second = (load_plugin("space", str(tmp_path / name / "mine.py")) for name in ("first", "second"))
    assert (first.name, second.name) == ("first", "second")
    assert load_plugin("space", str(tmp_path / "first" / "mine.py")).name == "first"


@pytest.mark.parametrize(("kind", "find"), [("space", nas.space), ("dataset", nas.dataset)])
def test_a_file_that_exports_something_else_is_answered_in_one_sentence(tmp_path, kind, find):
    (tmp_path / "three.py").write_text("SPACE = DATASET = 3\n")
    with pytest.raises(nas.NasError, match=rf"{kind}: 3 is a int; it must be a nas\.\w+"):
        find(str(tmp_path / "three.py"))


@pytest.mark.parametrize(
    "fields",
    [{"space": "mnasnet"}, {"dataset": 3}, {"objectives": ("macs_m",)}, {"limits": ("macs_m<3",)}, {"seed": -1}, {"runs": ""}],
)
def test_an_experiment_of_wrong_values_is_refused(fields):
    experiment = load_plugin("experiment", "digits_mobilenetv3")
    with pytest.raises(nas.NasError, match=next(iter(fields))):
        replace(experiment, **fields)
