"""Lose the node on which a trial trains; another one joins. A process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Thread

from tests.nodes import head


def main() -> None:
    with head(num_cpus=0) as cluster:
        from tests.tune.sweep import ALPHAS, prepared, searched

        search = prepared(Path(sys.argv[1]), "node_lost", ALPHAS, "workers.max_failures=3", retries=3, concurrent=1)
        run = Thread(target=lambda: searched(search))
        node = cluster.add_node(num_cpus=2)
        run.start()
        while not any(trial.step >= 10 for trial in search.state.trials):
            assert run.is_alive(), "the search ended early"
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=2)
        run.join()


if __name__ == "__main__":
    main()
