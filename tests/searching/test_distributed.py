"""A training in several processes of Ray: their resources, their failures, their end."""

import threading

import pytest
import ray

import nas
from nas.searching import distributed


@pytest.mark.usefixtures("running_ray")
def test_workers_do_not_wait_for_ever_for_cores_that_other_work_has(monkeypatch):
    monkeypatch.setattr(distributed, "WAIT_SECONDS", 0.5)
    other = ray.remote(num_cpus=1)(type("Other", (), {"here": lambda self: True})).remote()
    assert ray.get(other.here.remote())
    with pytest.raises(nas.NasError, match=r"workers: 2 need as many CPUs, and \d of this Ray's are free"):
        distributed._wait_until_free(distributed.Processes(count=2, use_gpu=False, threads=1))
    ray.kill(other)


@pytest.mark.usefixtures("running_ray")
def test_a_training_whose_queue_is_killed_is_one_sentence():
    queue = distributed.Queue()
    ended = threading.Thread()
    assert distributed._receive(queue, [], ended, None) is None  # after a while without a message
    ray.kill(queue.actor)
    with pytest.raises(distributed.ProcessError, match="the process that passes the epochs on has ended"):
        distributed._receive(queue, [], threading.current_thread(), None)
