"""Lose a node with one of two workers in the middle of a run; another one joins. A process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Thread

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.worker.callbacks import Hooks
from tests.nodes import head
from tests.train.faults import faults_run

LOST_AFTER = 12
"""Steps that the driver hears of."""


class Unhurried(Hooks):
    """Leaves time for a node to be lost before the run is over."""

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        time.sleep(0.3)


def main() -> None:
    config = faults_run(Path(sys.argv[1]), "name=node_lost", "workers.max_failures=3")
    steps: list[int] = []
    with head(num_cpus=1) as cluster:
        from hbt_ray.train.driver.trainer import fit

        run = Thread(target=lambda: fit(config, lambda metrics: steps.append(metrics.step), hooks=Unhurried()))
        node = cluster.add_node(num_cpus=1)
        run.start()
        while not steps or steps[-1] < LOST_AFTER:
            assert run.is_alive(), "the run ended early"
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        run.join()


if __name__ == "__main__":
    main()
