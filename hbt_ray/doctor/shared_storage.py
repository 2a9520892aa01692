"""Shared storage: what a run writes must be seen by every node, and a folder of one node is found out in seconds."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from hbt_ray.doctor.probe import read_markers, remove_marker, write_marker
from hbt_ray.errors import ConfigError

WAIT_SECONDS = 20.0
"""So long the nodes are waited for; one that is too busy to look is taken to see."""
_NUMBER = 0
"""Of the driver's mark, the only one."""


def check_shared(folder: Path) -> None:
    """Whether all nodes of the cluster see a folder of the driver; on one node nothing is done. Needs a Ray session.

    Raises:
        ConfigError: some do not.
    """
    from hbt_ray.doctor.run import alive_nodes

    nodes = {name: node["NodeID"] for name, node in alive_nodes().items()}
    if len(nodes) < 2:
        return
    token = secrets.token_hex(8)
    made, _ = write_marker(str(folder), token, _NUMBER)
    try:
        blind = sorted(name for name, found in _looks(str(folder), token, nodes).items() if not found)
    finally:
        remove_marker(str(folder), token, _NUMBER, made)
    if blind:
        raise ConfigError(
            f"storage_path: {folder} is a folder of {socket.gethostname()}, where the driver runs, and {len(blind)} of "
            f"{len(nodes)} nodes do not see what is written there: {', '.join(blind)}. Checkpoints of workers there "
            "would be lost; set storage_path to a file system that all nodes have, such as /mnt/hbt/runs"
        )


def _looks(folder: str, token: str, nodes: dict[str, str]) -> dict[str, set[int]]:
    """The marks that the nodes that answer find, by the node's name."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(read_markers)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            folder, token, [_NUMBER]
        ): name
        for name, node in nodes.items()
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
