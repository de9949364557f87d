"""A search in a real Jupyter kernel: it shows its log and a bar, the stop button ends it as Ctrl-C does, and `resume` goes on."""

import os
import time
from pathlib import Path
from queue import Empty

import pytest
from jupyter_client.manager import start_new_kernel

import nas

pytestmark = pytest.mark.slow
BEGIN = """
from dataclasses import replace
import nas
from experiments.digits_mobilenetv3 import EXPERIMENT

experiment = replace(EXPERIMENT, trials=40, workers=1, train=replace(EXPERIMENT.train, epochs=1))
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    path = os.pathsep.join([str(Path(nas.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), env={**os.environ, "PYTHONPATH": path})
    yield manager, client, folder
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client, code, on_output=lambda text: None):
    """(the status of a cell, what it printed, what it displayed, its error)."""
    client.execute(code)
    printed, displayed, error, deadline = "", [], None, time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=5)
        except Empty:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            printed += content["text"]
            on_output(printed)
        elif kind == "clear_output":
            raise AssertionError("the cell is cleared, with the bar and what the user printed")
        elif kind in ("display_data", "update_display_data"):
            displayed.append(content["data"])
        elif kind == "error":
            error = content
        elif kind == "status" and content["execution_state"] == "idle":
            return printed, displayed, error
    raise AssertionError(f"the cell does not end: {printed}")


def test_a_search_shows_itself_stops_and_resumes(kernel):
    manager, client, folder = kernel
    stopped = []

    def stop(printed):
        if "trial 0 done" in printed and not stopped:
            manager.interrupt_kernel()
            stopped.append(printed)

    assert run_cell(client, BEGIN)[2] is None
    printed, displayed, error = run_cell(client, "run = nas.search(experiment)", stop)
    assert "run folder" in printed
    assert "stopping when the running epochs have ended" in printed
    assert error["ename"] == "Interrupted"
    assert error["traceback"] == ["interrupted; finished work is kept, and nas.resume(RUN) continues"]
    assert "<progress" in displayed[0]["text/html"]
    assert " done · 0 running · " in displayed[-1]["text/plain"]
    assert "stopping" not in displayed[-1]["text/plain"]
    (run,) = (folder / "runs").iterdir()
    before = nas.results(run)["status"].value_counts()
    assert 0 < before["done"] < 40
    printed, _, error = run_cell(
        client, f"import ray; ray.init(num_cpus=1); print(nas.resume({str(run)!r}, trials={before['done'] + 1}))"
    )
    assert error is None, error
    assert str(run) in printed
    assert nas.results(run)["status"].value_counts()["done"] == before["done"] + 1
    assert run_cell(client, "print(ray.is_initialized())")[0] == "True\n"


def test_a_mistake_is_one_sentence_in_a_cell(kernel):
    _, client, _ = kernel
    assert run_cell(client, "import nas")[2] is None
    error = run_cell(client, "nas.results('nowhere')")[2]
    assert error["ename"] == "NasError"
    assert len(error["traceback"]) == 1
    assert "is not a run folder" in error["traceback"][0]
    for call, sentence in (
        ("nas.search('digits_mobilenetv3')", "experiment: 'digits_mobilenetv3' is a str; it must be a nas.Experiment"),
        ("nas.search(experiment, name='a/b')", "name: 'a/b' is not the beginning of a folder's name; give one without /"),
    ):
        assert run_cell(client, BEGIN + call)[2]["traceback"] == [f"NasError: {sentence}"]
