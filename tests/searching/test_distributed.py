"""A training in several processes of Ray: their resources, their failures, their end."""

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
