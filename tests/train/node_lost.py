"""Lose a node with one of two workers in the middle of a run; another one joins. A process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Thread

from hbt_ray.data.stream.local import LocalBatch
from hbt_ray.session import configure
from hbt_ray.train.probe import Probe
from tests.worlds import small_run

LOST_AFTER = 12
"""Steps that the driver hears of."""


class Unhurried(Probe):
    """Leaves time for a node to be lost before the run is over."""

    def batch(self, rank: int, batch: LocalBatch) -> None:
        time.sleep(0.3)


def main() -> None:
    configure(local=True)
    import ray
    from ray.cluster_utils import Cluster

    from hbt_ray.train.engine.loop import Outcome
    from hbt_ray.train.trainer import fit

    # Connected at once, so that the driver is on the head and not on the node that goes.
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1)
        lost: list[Thread] = []

        def replace() -> None:
            cluster.add_node(num_cpus=1)
            cluster.remove_node(node, allow_graceful=False)

        def watch(outcome: Outcome) -> None:
            if outcome.step >= LOST_AFTER and not lost:
                lost.append(Thread(target=replace))
                lost[0].start()

        overrides = ("name=node_lost", "checkpoints.every=5", "workers.max_failures=3")
        done = fit(small_run(Path(sys.argv[1]), *overrides), watch, probe=Unhurried())
        lost[0].join()
        print(done)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
