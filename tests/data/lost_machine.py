"""A cluster of two machines on this one, whose second is lost in the middle of a search; exits with the search's own code."""

import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from nas.cli.app import run

OPTIONS = ["--workers", "2", "--train.epochs", "25", "--trials", "2", "--early-stopping", "False"]
QUIET = {"include_log_monitor": False, "no_monitor": True, "include_dashboard": False}  # services that no search needs


def lose(cluster, node):
    """Remove a machine once every machine has told of epochs."""
    while True:
        told = list(Path("runs").glob("*/history.jsonl"))
        if told and len({line.split(",")[0] for line in told[0].read_text().splitlines()}) >= 2:
            break
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    prestart = {"_system_config": {"prestart_worker_first_driver": False}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1} | QUIET | prestart)
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    threading.Thread(target=lose, args=(cluster, node), daemon=True).start()
    experiment = Path(__file__).with_name("widths.py")
    code = run(["search", str(experiment), "--address", cluster.address, *OPTIONS])
    cluster.shutdown()
    sys.exit(code)
