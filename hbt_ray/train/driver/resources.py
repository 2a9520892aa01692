"""Room on the cluster: the wait for what others hold, or for nodes to come, which says what it waits for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from hbt_ray.ray_session import NO_API_SERVER
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.workers import missing_resources, not_enough_resources

_SECONDS_BETWEEN_LINES = 10.0
_GRACE_SECONDS = 20.0
"""An autoscaler looks at what is asked for every five seconds."""


def wait_for_resources(config: TrainConfig, say: Callable[[str], None]) -> None:
    """For the workers, and for their validation. Data tasks make do with what is left.

    Ray would wait for ever for what a cluster of fixed size does not have, and long for what others hold. Nothing tells
    whether a cluster grows and how far, so what it lacks is asked for, and if no node is on its way then, none will
    come. It is asked for by a placement group, as that goes with its job: another request would outlive it and keep
    nodes up.

    Args:
        say: is told every ten seconds what is waited for, and since when.

    Raises:
        ResourceError: the cluster cannot have it, or it was not there in time.
    """
    workers, dev = config.workers, config.validation
    beside = {"CPU": dev.cpus, "GPU": float(dev.gpu)} if dev.store else {}
    begin = last_line = time.monotonic()
    asked: Any = None
    coming = False
    try:
        while lack := missing_resources(workers, free := ray.available_resources(), beside):
            have, now = ray.cluster_resources(), time.monotonic()
            if asked is None and missing_resources(workers, have, beside) and not os.environ.get(NO_API_SERVER):
                asked = _ask(config, beside)
            coming = coming or (asked is not None and _nodes_are_coming())
            in_vain = (
                missing_resources(workers, have, beside)
                and not coming
                and (asked is None or now - begin > _GRACE_SECONDS)
            )
            if in_vain or now - begin > workers.start_seconds:
                raise not_enough_resources(workers, lack, have, free)
            if asked is not None and asked.wait(0):
                return  # It holds what was free; it is given back, and Ray Train takes it.
            if now - last_line > _SECONDS_BETWEEN_LINES:
                last_line = now
                say(_told(lack, have, free, now - begin, coming=coming))
            time.sleep(0.5)
    finally:
        if asked is not None:
            ray.util.remove_placement_group(asked)


def _ask(config: TrainConfig, beside: Mapping[str, float]) -> Any:
    bundles = [config.workers.each] * config.workers.least
    more = {name: amount for name, amount in beside.items() if amount}
    return ray.util.placement_group([*bundles, *([more] if more else [])])


def _nodes_are_coming() -> bool:
    """By the autoscaler."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes)


def _told(
    lack: Mapping[str, float], have: Mapping[str, float], free: Mapping[str, float], seconds: float, *, coming: bool
) -> str:
    what = ", ".join(
        f"{amount:g} {name} ({have.get(name, 0):g} there, {free.get(name, 0):g} free)" for name, amount in lack.items()
    )
    return f"waiting for {'nodes' if coming else 'room'}, since {seconds:,.0f} s: {what} are needed"
