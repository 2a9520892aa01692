"""CPUs of data tasks: one each, as long as the cluster has any that nobody holds for good.

Training workers (and trials) reserve theirs by placement groups for as long as they live. A task that asks for a CPU
where all are reserved waits for ever, and the workers wait for the task; one that asks for none runs beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import ray
from ray.util import placement_group_table


def task_cpus() -> float:
    """What a data task that starts now should ask for: a CPU if some node has one that is not reserved, else none."""
    return 1.0 if most_spare(ray.nodes(), placement_group_table().values()) >= 1 else 0.0


def most_spare(nodes: Collection[Mapping[str, Any]], groups: Collection[Mapping[str, Any]]) -> float:
    """CPUs of the node that has most beside those reserved.

    Args:
        nodes: as of `ray.nodes()`.
        groups: as of `placement_group_table()`.
    """
    reserved: Counter[str] = Counter()
    for group in groups:
        if group["state"] != "REMOVED":
            for number, node in group["bundles_to_node_id"].items():
                reserved[node] += group["bundles"][number].get("CPU", 0)
    return max(
        (node["Resources"].get("CPU", 0) - reserved[node["NodeID"]] for node in nodes if node["Alive"]), default=0
    )
