"""An elastic run on nodes that announce their end and on one that joins: three, one, then two workers.

A process of its own. It leaves what every rank saw in `marks-nodes_change` of its folder.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from ray import cloudpickle

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.config import TrainConfig
from tests.nodes import head
from tests.small_data import small_run
from tests.train import faults

DRAINED_AFTER, NOTICE_SECONDS, LEFT_TO_ONE = 10, 20.0, 8
"""Steps that the driver hears of; what the nodes are given; steps of the one that is left before another joins."""


def settings(workspace: Path) -> TrainConfig:
    overrides = (
        "name=nodes_change",
        "model.dropout=0",
        "optimiser.steps=140",
        # At 1e-3 mere rounding (other chunks in one process) moves the curve by 2e-5 in so many steps, here by 6e-7;
        # moments of the optimiser that got lost would move it by 5e-4.
        "optimiser.learning_rate=1.0e-4",
        "checkpoints.every=20",
        "workers.count=[1, 3]",
        "workers.resize_seconds=5",
        "workers.start_seconds=8",  # Less than the notice: the first tries find no room.
        "workers.max_failures=0",  # What happens here is no failure.
    )
    return small_run(workspace, *overrides)


class Unhurried(faults.Faults):
    """Steps so slow that ranks have time to hear of what happens to the cluster before the run is over."""

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        super().on_batch(rank, batch)
        world_size = 12 // len(batch.items)
        time.sleep({1: 1.0, 2: 0.0, 3: 0.15}[world_size])


def drain(node: Any, deadline: float) -> None:
    """As a cloud's agent does when a spot instance is reclaimed."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
    accepted, why = client.drain_node(node.node_id, reason, "reclaimed", int(deadline * 1_000))
    assert accepted, why


def main() -> None:
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.5"
    workspace = Path(sys.argv[1])
    places = workspace / "marks-nodes_change"
    places.mkdir()
    cloudpickle.register_pickle_by_value(faults)
    steps: list[int] = []

    def wait_for(step: int) -> None:
        while not steps or steps[-1] < step:
            assert run.is_alive(), "the run ended early"
            time.sleep(0.1)

    with head(num_cpus=1) as cluster:
        from hbt_ray.train.driver.trainer import fit

        run = Thread(target=lambda: fit(settings(workspace), lambda o: steps.append(o.step), hooks=Unhurried(places)))
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        run.start()
        wait_for(DRAINED_AFTER)
        deadline = time.time() + NOTICE_SECONDS
        for node in nodes:
            drain(node, deadline)
        time.sleep(NOTICE_SECONDS)
        for node in nodes:
            cluster.remove_node(node, allow_graceful=False)
        wait_for(steps[-1] + LEFT_TO_ONE)
        cluster.add_node(num_cpus=1)
        run.join()


if __name__ == "__main__":
    main()
