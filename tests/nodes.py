"""Nodes that come and go on one machine, for processes of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hbt_ray.ray_session import configure


@contextmanager
def head(num_cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of one node, joined by this process; add and remove nodes in the main thread, where
    alone Ray can."""
    configure(local=True)
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        # Connected at once, so that the driver is on the head.
        node = {"num_cpus": num_cpus, "include_dashboard": False, "temp_dir": sockets}
        cluster = Cluster(initialize_head=True, connect=True, head_node_args=node)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
