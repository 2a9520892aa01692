"""The Ray session: join the cluster that the environment names, or start one on this machine, quietly."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hbt_ray.errors import ResourceError

# A checkpoint counts only once the controller has polled it; with the default of 2 s a fast run would lose many steps.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def session() -> Iterator[None]:
    """Connect for the length of the block; a session that was there before is used and left as it is."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:
            raise ResourceError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} does not answer ({error}); check that the cluster runs"
            ) from None
    else:
        _start_local()
    _hush()
    try:
        yield
    finally:
        ray.shutdown()


def _start_local() -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # More logical CPUs than cores: training workers reserve theirs first, and with none left Ray Data waits for ever.
    ray.init(
        address="local",
        num_cpus=2 * (os.cpu_count() or 1) + 2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _hush() -> None:
    """Leave the console to our own progress; Ray's files keep everything."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
