"""Why a worker process died, in the words of what it wrote last; and whether Ray's own processes still run."""

import pickle
import socket
from types import SimpleNamespace

import pytest

from nas.errors import NasError
from nas.searching.ray_faults import Health, death_of, error_of

PREFIX = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
ENDED = PREFIX + "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) ..."
CODE = PREFIX + "Worker exits unexpectedly. Worker exits with an exit code 4."
UNSEEN = "killed from outside, as for lack of memory, or by its own code"


@pytest.mark.parametrize(
    ("text", "printed", "death"),
    [
        (ENDED, "", UNSEEN),
        (ENDED, ":job_id:01000000\n:actor_name:run_trial\n*** SIGSEGV received at time=1 on cpu 1 ***\nPC: @ ...\n", "SIGSEGV"),
        (ENDED, "what(): no kernel\n*** SIGABRT received at time=1 on cpu 1 ***\nPC: ...\n", "SIGABRT; what(): no kernel"),
        (CODE, "goodbye\n", "Worker exits with an exit code 4; last it wrote: goodbye"),
        ("", "", UNSEEN),
    ],
)
def test_a_death_is_told_in_a_few_words(tmp_path, text, printed, death):
    errors = tmp_path / "worker.err"
    errors.write_text("of an earlier trial\n" + printed)
    report = {"stderr": str(errors), "stderr_bytes": len("of an earlier trial\n")}
    assert death_of(text, report) == death
    assert death_of(ENDED, {"stderr": "/nowhere", "stderr_bytes": 0}) == UNSEEN  # on another machine


def test_an_error_that_ray_could_not_write_to_a_full_disk_is_unknown(tmp_path):
    file, trial = tmp_path / "error.pkl", SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl"))
    whole = pickle.dumps(NasError("a sentence"))
    file.write_bytes(whole)
    assert str(error_of(trial)) == "a sentence"
    for length in (0, len(whole) // 2):
        file.write_bytes(whole[:length])
        assert error_of(trial) is None


def test_a_process_of_rays_that_has_ended_is_named():
    with socket.create_server(("127.0.0.1", 0)) as alive, socket.create_server(("127.0.0.1", 0)) as killed:
        addresses = {name: f"127.0.0.1:{one.getsockname()[1]}" for name, one in (("gcs_server", alive), ("raylet", killed))}
        assert Health(addresses=addresses).ended() is None
        killed.close()
        health = Health(addresses=addresses)
        assert health.ended() == "raylet"
        assert health.ended() is None  # it looks once a second
