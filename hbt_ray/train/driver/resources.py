"""Waits until the cluster can hold a run, and says what it waits for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from hbt_ray.errors import ResourceError
from hbt_ray.ray_session import NO_API_SERVER
from hbt_ray.train.config import TrainConfig, WorkersConfig

_SECONDS_BETWEEN_MESSAGES = 10.0
_POLL_SECONDS = 0.5
_AUTOSCALER_GRACE_SECONDS = 20.0
"""An autoscaler looks at demands every five seconds; after four looks no node is on its way."""


def wait_for_resources(config: TrainConfig, on_wait: Callable[[str], None]) -> None:
    """Wait for the resources of workers and validation. Data tasks use what is left.

    Ray would wait forever for what a cluster of fixed size does not have, and long for what other jobs hold. Nothing
    says whether a cluster can grow, and how far. So missing resources are requested, and if no node is on its way soon
    after, none will come. The request is a placement group, since that ends with its job: any other request would
    outlive the job and keep nodes up.

    Args:
        config: the run.
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
                request = _request_resources(workers, extra)
            nodes_coming = nodes_coming or (request is not None and _nodes_are_coming())
            autoscaler_failed = request is None or now - begin > _AUTOSCALER_GRACE_SECONDS
            if (too_small and not nodes_coming and autoscaler_failed) or now - begin > workers.start_seconds:
                raise _resource_error(workers, missing, total, free)
            if request is not None and request.wait(0):
                return  # The request holds the resources. It is released below, and Ray Train takes them.
            if now - last_message > _SECONDS_BETWEEN_MESSAGES:
                last_message = now
                on_wait(_message(missing, total, free, now - begin, nodes_coming=nodes_coming))
            time.sleep(_POLL_SECONDS)
    finally:
        if request is not None:
            ray.util.remove_placement_group(request)


def _request_resources(workers: WorkersConfig, extra: Mapping[str, float]) -> Any:
    bundles = [workers.resources] * workers.min_count
    extra_bundle = {name: amount for name, amount in extra.items() if amount}
    return ray.util.placement_group([*bundles, *([extra_bundle] if extra_bundle else [])])


def _nodes_are_coming() -> bool:
    """Whether the autoscaler is starting nodes."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes)


def _resource_error(
    workers: WorkersConfig, missing: Mapping[str, float], total: Mapping[str, float], free: Mapping[str, float]
) -> ResourceError:
    needed = ", ".join(f"{amount:g} {name}" for name, amount in missing.items())
    existing = ", ".join(f"{total.get(name, 0):g} {name}, {free.get(name, 0):g} of them free" for name in missing)
    return ResourceError(
        f"{workers.min_count} workers and what runs beside them need {needed}; the cluster has {existing}. Lower "
        "workers.count or workers.cpus, add nodes, or wait for the jobs that hold the rest"
    )


def _message(
    missing: Mapping[str, float],
    total: Mapping[str, float],
    free: Mapping[str, float],
    seconds: float,
    *,
    nodes_coming: bool,
) -> str:
    needed = ", ".join(
        f"{amount:g} {name} (the cluster has {total.get(name, 0):g}, {free.get(name, 0):g} free)"
        for name, amount in missing.items()
    )
    return f"waiting for {'nodes' if nodes_coming else 'resources'} for {seconds:,.0f} s: needs {needed}"
