"""Shared storage: what a run writes must be seen by every node, and a folder of one node is found out in seconds."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from hbt_ray.errors import ConfigError

LOOK_SECONDS = 3.0
"""So long a node looks: a file system over the network may show a file late."""
WAIT_SECONDS = 20.0
"""So long the nodes are waited for; one that is too busy to look is taken to see."""


def check_shared(folder: Path) -> None:
    """Whether all nodes of the cluster see a folder of the driver; on one node nothing is done. Needs a Ray session.

    Raises:
        ConfigError: some do not.
    """
    import ray

    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".seen-{secrets.token_hex(8)}"
    marker.touch()
    try:
        blind = [f"{nodes[node]} (node {node[:8]})" for node, seen in _looks(marker, list(nodes)).items() if not seen]
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise ConfigError(
            f"storage_path: {folder} is a folder of {socket.gethostname()}, where the driver runs, and {len(blind)} of "
            f"{len(nodes)} nodes do not see what is written there: {', '.join(sorted(blind))}. Checkpoints of "
            "workers there would be lost; set storage_path to a file system that all nodes have, such as /mnt/hbt/runs"
        )


def _looks(marker: Path, nodes: list[str]) -> dict[str, bool]:
    """What the nodes that answer see, by node."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_sees)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(str(marker)): node
        for node in nodes
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=WAIT_SECONDS)
    for task in late:
        ray.cancel(task)
    answers = {}
    for task in done:
        try:
            answers[asked[task]] = ray.get(task)
        except RayError:  # A node that just left says nothing about the storage.
            continue
    return answers


def _sees(marker: str) -> bool:
    end = time.monotonic() + LOOK_SECONDS
    while not Path(marker).exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
