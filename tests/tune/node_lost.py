"""Lose the node on which a trial trains; another one joins. A process of its own."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

from hbt_ray.session import configure


def main() -> None:
    configure(local=True)
    import ray
    from ray.cluster_utils import Cluster

    from tests.tune.sweep import ALPHAS, prepared, searched

    search = prepared(Path(sys.argv[1]), "node_lost", ALPHAS, "workers.max_failures=3", retries=3, concurrent=1)
    run = Thread(target=lambda: searched(search))
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        # Connected at once, so that the driver is on the head. Ray adds nodes in the main thread only.
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": sockets}
        cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
        try:
            node = cluster.add_node(num_cpus=2)
            run.start()
            while not any(trial.step >= 10 for trial in search.board.trials):
                assert run.is_alive(), "the search ended early"
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=2)
            run.join()
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
