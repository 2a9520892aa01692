"""The resources of a run: wait until the cluster has them, and release those of a run whose driver was killed.

Ray releases a placement group when its job ends. Ray Train has an actor that does so earlier, but that actor needs the
API server, which a session on one machine does not have. A search is one long job that stops trials all the time
(ray#54305), so rank 0 writes the group's id into the run folder, and the process that stops a trial releases the group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray

from hbt_ray.errors import ResourceError
from hbt_ray.ray_session import NO_API_SERVER
from hbt_ray.run_dir import RunDir
from hbt_ray.train.config import TrainConfig

_SECONDS_BETWEEN_MESSAGES = 10.0
_POLL_SECONDS = 0.5
_AUTOSCALER_GRACE_SECONDS = 20.0
"""An autoscaler reads demands every five seconds; if it has started no node after four rounds, none will come."""


def wait_for_resources(config: TrainConfig, on_wait: Callable[[str], None]) -> None:
    """Wait for the resources of workers and validation. Data tasks use what is left.

    Ray would wait forever for resources that a cluster of fixed size does not have, and long for those that other jobs
    hold. It has no interface that says whether a cluster can grow. So missing resources are requested, and if no node
    is on its way soon after, none will come. The request is a placement group, since that ends with its job: any other
    request would outlive the job and keep nodes up.

    Args:
        on_wait: called every ten seconds with a message about what is missing.

    Raises:
        ResourceError: the cluster cannot have the resources, or they were not free within `workers.start_seconds`.
    """
    workers, validation = config.workers, config.validation
    extra = {"CPU": validation.cpus, "GPU": float(validation.gpu)} if validation.store else {}
    begin = last_message = time.monotonic()
    request: Any = None
    nodes_coming = False
    try:
        while missing := workers.missing_resources(free := ray.available_resources(), extra):
            total, now = ray.cluster_resources(), time.monotonic()
            too_small = bool(workers.missing_resources(total, extra))
            if request is None and too_small and not os.environ.get(NO_API_SERVER):
                bundles = [workers.resources] * workers.min_count
                extra_bundle = {name: amount for name, amount in extra.items() if amount}
                request = ray.util.placement_group([*bundles, *([extra_bundle] if extra_bundle else [])])
            nodes_coming = nodes_coming or (request is not None and _nodes_are_coming())
            # Without an API server there is no autoscaler to wait for.
            autoscaler_failed = request is None or now - begin > _AUTOSCALER_GRACE_SECONDS
            needed = ", ".join(
                f"{amount:g} {name} (the cluster has {total.get(name, 0):g}, {free.get(name, 0):g} of them free)"
                for name, amount in missing.items()
            )
            if (too_small and not nodes_coming and autoscaler_failed) or now - begin > workers.start_seconds:
                raise ResourceError(
                    f"{workers.min_count} workers and what runs beside them need {needed}. Lower workers.count or "
                    "workers.cpus, add nodes, or wait for the jobs that hold the rest"
                )
            if request is not None and request.wait(0):
                return  # The request holds the resources. It is released below, and Ray Train takes them.
            if now - last_message > _SECONDS_BETWEEN_MESSAGES:
                last_message, kind = now, "nodes" if nodes_coming else "resources"
                on_wait(f"waiting for {kind} for {now - begin:,.0f} s: needs {needed}")
            time.sleep(_POLL_SECONDS)
    finally:
        if request is not None:
            ray.util.remove_placement_group(request)


def _nodes_are_coming() -> bool:
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes)


def release_placement_group(run: RunDir) -> None:
    """Release the placement group of a run, if it has one; its workers end. Needs a Ray session."""
    from ray import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    try:
        group_id = run.placement_group.read_text("utf-8")
    except FileNotFoundError:
        return
    run.placement_group.unlink(missing_ok=True)
    # The group may be of an earlier cluster, so that its id is unknown here.
    if placement_group_table().get(group_id, {}).get("state", "REMOVED") != "REMOVED":
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))
