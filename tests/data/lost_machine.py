"""A cluster of two machines on this one, whose second is lost in the middle of a search; exits with the search's own code."""

import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

OPTIONS = ["--workers", "2", "--train.epochs", "25", "--trials", "3", "--early-stopping", "False"]

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    experiment = Path(__file__).with_name("widths.py")
    search = subprocess.Popen([sys.executable, "-m", "nas", "search", experiment, "--address", cluster.address, *OPTIONS])
    while True:  # until every machine has told of epochs
        told = list(Path("runs").glob("*/history.jsonl"))
        if told and len({line.split(",")[0] for line in told[0].read_text().splitlines()}) >= 2:
            break
        assert search.poll() is None
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)
    sys.stdout.write("REMOVED\n")
    sys.stdout.flush()
    code = search.wait()
    cluster.shutdown()
    sys.exit(code)
