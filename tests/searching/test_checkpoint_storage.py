"""Checkpoints reach a place that fails now and then, and weights come back from there."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nas.errors import NasError
from nas.searching.checkpoint_storage import LAST_FILE, WEIGHTS_FILE, TrialFolder


class Failing(MemoryFileSystem):
    """A place in memory that takes no file while it is down."""

    protocol = "failing"
    down = False

    def put_file(self, lpath, rpath, **options):
        if Failing.down:
            raise ConnectionError("no route")
        super().put_file(lpath, rpath, **options)


fsspec.register_implementation("failing", Failing)


def test_a_place_that_fails_costs_no_training_and_has_it_all_once_it_is_back(tmp_path, caplog):
    folder = TrialFolder.of("failing://run", 3)
    with folder.opened() as (opened, push):
        (opened / LAST_FILE).write_text("1")
        push()
        Failing.down = True
        (opened / LAST_FILE).write_text("2")
        (opened / WEIGHTS_FILE).write_text("weights")
        push()
        assert "ConnectionError: no route" in caplog.text
        with pytest.raises(NasError, match="weights of failing://run/trial3"):
            folder.take_weights(tmp_path / "3.safetensors")
        assert not list(tmp_path.iterdir())
        Failing.down = False
        push()
    with folder.opened() as (again, _):  # another process, or machine
        assert (again / LAST_FILE).read_text() == "2"
    folder.take_weights(tmp_path / "3.safetensors")
    assert (tmp_path / "3.safetensors").read_text() == "weights"
    folder.remove()
    with folder.opened() as (gone, _):
        assert not list(gone.iterdir())
