"""The Ray session: join the cluster that the environment names, or start one on this machine, quietly."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hbt_ray.cores import usable_cores
from hbt_ray.errors import Interrupted, ResourceError

_SETTINGS = {
    # A checkpoint counts only once the controller has polled it; in the default of 2 s a fast run does many steps.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An autoscaler's doings would stand between our lines, in colours, also in the log of a job.
    "RAY_SCHEDULER_EVENTS": "0",
}
NO_API_SERVER = "HBT_NO_API_SERVER"
"""Set where nobody answers Ray's state API."""
KNOCK_SECONDS = 10
_LOCAL_SETTINGS = {
    NO_API_SERVER: "1",
    # On one machine nobody announces a preemption or reads Prometheus, and each of their processes takes 2 s to start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's core warns on the console of what its own libraries do (constructor arguments, worker starts).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_maximum_startup_concurrency": "16",
    # Ray computes in a thread, and glibc's arenas of threads give large blocks back whatever `heap` asks for.
    "MALLOC_ARENA_MAX": "1",
}


def configure(*, local: bool) -> None:
    """Set what Ray reads when it is imported or started; what the environment says already stays."""
    for name, value in (_SETTINGS | _LOCAL_SETTINGS if local else _SETTINGS).items():
        os.environ.setdefault(name, value)


@contextmanager
def session(*, spare_cpus: bool = True) -> Iterator[None]:
    """Connect for the length of the block; a session that was there before is used and left as it is.

    Args:
        spare_cpus: a cluster started here counts more CPUs than there are, for work whose workers reserve theirs first.
    """
    configure(local="RAY_ADDRESS" not in os.environ)
    import ray
    import ray.exceptions

    if ray.is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _knock(address)
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            raise _not_joined(address, error) from None
        _keep_workers_free()
    else:
        _start_local(2 * usable_cores() + 2 if spare_cpus else usable_cores())
    _hush()
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the last checkpoint") from None
    finally:
        ray.shutdown()


def _keep_workers_free() -> None:
    """Start what Ray Data keeps for a cluster on this node, before a worker node is the first to need it: the node that
    has these two actors is never idle, so an autoscaler keeps it, and a spot node would take them with it."""
    with suppress(ImportError):  # Nothing public starts them.
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator
        from ray.data._internal.stats import get_or_create_stats_actor

        default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()
        get_or_create_stats_actor()


def _not_joined(address: str, error: Exception) -> ResourceError:
    told = " ".join(str(error).split())
    if "Version mismatch" in told:
        return ResourceError(
            f"RAY_ADDRESS={address} runs other versions than this machine ({told}); Ray and Python must be the same: "
            "install those here, or send the command as a job with `hbt submit`"
        )
    # Ray does not say that it was a token that was missing.
    return ResourceError(
        f"RAY_ADDRESS={address} does not answer ({told}); check that the cluster runs, and if it asks for a token set "
        "RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names"
    )


def _knock(address: str) -> None:
    """Ray tries an address for minutes, and may end the process then. What is no HOST:PORT, such as `auto`, is its own.

    Raises:
        OSError: nobody is there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _start_local(num_cpus: int) -> None:
    import ray

    with _held_back_stderr():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Ray's core announces its log level on the bare file descriptor; shown only if the block fails."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _hush() -> None:
    """Leave the console to our own progress; Ray's files keep everything."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
