"""The Ray session of a command: join the cluster that `RAY_ADDRESS` names, or start one on this machine."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import hbt_ray
from hbt_ray import ray_compat
from hbt_ray.errors import Interrupted, ResourceError
from hbt_ray.host import usable_cpus
from hbt_ray.storage import remove_tree

_SETTINGS = {
    # A checkpoint counts only after the controller has polled it. In the default 2 s a fast run does many steps.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # The autoscaler would print coloured messages between our lines, also in the log of a job.
    "RAY_SCHEDULER_EVENTS": "0",
}
NO_API_SERVER = "HBT_NO_API_SERVER"
"""Environment variable that is set if the cluster has no API server, so Ray's state API does not answer."""
CONNECT_SECONDS = 10
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_LOCAL_SETTINGS = {
    NO_API_SERVER: "1",
    # One machine has no preemption notices and no Prometheus, and each of these processes takes 2 s to start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's core prints warnings about Ray's own libraries (constructor arguments, worker starts).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_maximum_startup_concurrency": "16",
    # Ray computes in a thread. glibc's arenas for threads return large blocks in spite of `keep_freed_memory`.
    "MALLOC_ARENA_MAX": "1",
    # With this, Ray uses 127.0.0.1 as the node's address on every system, and its servers listen only there.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
}
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_FOLDER_PREFIX = "hbt_ray-"
_FOLDER_MARKER = "made_by_hbt_ray"
"""File in each of our session folders. A folder without it is not ours and is never removed."""
_MAX_FOLDER_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""Limit for a session folder: the kernel allows 107 bytes for the path of a socket."""
_FOLDER_VARIABLE = "HBT_SESSION_FOLDER"
"""Environment variable of all processes of a cluster that a command started on this machine."""
_STOPPED = "stopped; the same command continues from the last checkpoint"
_signal_received: int | None = None


def configure(*, local: bool) -> None:
    """Set the environment variables that Ray reads when it is imported or started. Call it before Ray is imported.

    Variables that are set already keep their values.
    """
    for name, value in (_SETTINGS | _LOCAL_SETTINGS if local else _SETTINGS).items():
        os.environ.setdefault(name, value)


def session_folder() -> Path | None:
    """Return the folder with sockets and logs of a cluster that a command started on this machine, if this is one."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def received_signal() -> int | None:
    """Return the signal that asked this process to end, if any."""
    return _signal_received


def catch_termination() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does. An ignored signal (`nohup`) stays ignored."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> Any:
    global _signal_received
    _signal_received = number
    # Ray Train and Ray Tune set their own handler of SIGINT, which ends the workers in order.
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        return handler(signal.SIGINT, frame)
    raise KeyboardInterrupt


def configure_command() -> str:
    """Call `configure` for the cluster that `RAY_ADDRESS` names, or for this machine. Returns the address or ""."""
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        os.environ.pop("RAY_ADDRESS", None)  # Ray would use an empty value as an address.
    address = os.environ.get("RAY_ADDRESS", "")
    configure(local=not address)
    return address


@contextmanager
def session(*, spare_cpus: bool = True) -> Iterator[None]:
    """Connect to Ray for the length of the block. A session that exists already is used and left open.

    Args:
        spare_cpus: whether a session on this machine counts more CPUs than it has, so that data tasks find some
            although the workers reserve theirs first.

    Raises:
        ResourceError: the cluster cannot be joined, or Ray cannot start on this machine.
        Interrupted: Ctrl-C, or a signal with the same effect.
    """
    address = configure_command()
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        with _cluster(address) if address else _local_cluster(2 * usable_cpus() + 2 if spare_cpus else usable_cpus()):
            catch_termination()  # Ray has set its own handler, which ends the process without a message.
            _silence_ray_loggers()
            ray_compat.discard_error_messages()
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit):
            # Until Ray has started, its own handler of SIGTERM ends the process with the signal's number as exit code.
            if error.code != signal.SIGTERM:
                raise
            global _signal_received
            _signal_received = signal.SIGTERM
        raise Interrupted(_STOPPED) from None


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Join the cluster at `address` for the length of the block."""
    import ray
    import ray.exceptions

    try:
        _check_reachable(address)
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **_job_config())
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _not_joined(address, error) from None
    try:
        ray_compat.start_cluster_actors()
        yield
    finally:
        ray.shutdown()


def _job_config() -> dict[str, Any]:
    """Return the argument of `ray.init` that decides which directories are on the workers' module path."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # Ray has given a submitted job its working directory.
        return {}
    package_parent = str(Path(hbt_ray.__file__).parents[1])
    # `python -m hbt_ray` in a checkout: workers need the directory that the package was imported from.
    in_checkout = package_parent == os.getcwd() and sys.path[:1] in ([package_parent], [""])
    config = ray_compat.job_config_without_working_directory([package_parent] if in_checkout else [])
    return {"job_config": config}


def _not_joined(address: str, error: Exception) -> ResourceError:
    reason = " ".join(str(error).split())
    if "Version mismatch" in reason:
        return ResourceError(
            f"RAY_ADDRESS={address} runs other versions than this machine ({reason}); Ray and Python must be the same. "
            "Install these versions here, or send the command as a job with `hbt submit`",
            code="RAY_VERSION",
        )
    # Ray's error does not tell whether a token was missing.
    return ResourceError(
        f"RAY_ADDRESS={address} does not answer ({reason}). Check that the cluster runs; if it asks for a token set "
        "RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names",
        code="RAY_UNREACHABLE",
    )


def _check_reachable(address: str) -> None:
    """Open a connection, because Ray tries an address for minutes and may then end the process.

    An address without HOST:PORT is not tried: Ray refuses it at once.
    """
    if address == "auto":
        address = ray_compat.last_started_cluster()
        if not address:
            raise ConnectionError("no cluster was started on this machine")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _local_cluster(num_cpus: int) -> Iterator[None]:
    """Start a cluster on this machine for the length of the block. It listens only on the loopback interface."""
    import ray

    if not any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        # This token is for this session only. Ray would keep one for all in the home folder, which may be read-only.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    folder, lock = _make_folder()
    os.environ[_FOLDER_VARIABLE] = str(folder)
    failed = False
    try:
        _start_ray(folder, num_cpus)
        yield
    except Exception:
        failed = True
        raise
    finally:
        ray.shutdown()
        if not failed:  # After a failure the logs stay until the next command, so that the user can read them.
            with suppress(OSError):
                remove_tree(folder)
        os.close(lock)


def _start_ray(folder: Path, num_cpus: int) -> None:
    import ray

    try:
        with _discarded_stderr(), ray_compat.own_process_groups():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
                **_job_config(),
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ResourceError(
            f"Ray cannot start on this machine ({reason}). Its logs are in {folder} until the next command",
            code="RAY_START",
        ) from error


def _make_folder() -> tuple[Path, int]:
    """Create a folder for Ray's sockets and logs, and a lock on it that ends with this process.

    Folders of processes that died are removed.
    """
    reasons = []
    for base in dict.fromkeys((os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp")):
        limit = _MAX_FOLDER_BYTES - len(f"/{_FOLDER_PREFIX}12345678")
        if len(os.fsencode(os.path.abspath(base))) > limit:
            reasons.append(f"{base} has more than {limit} bytes")
            continue
        try:
            _remove_abandoned(Path(base))
            return _locked_folder(os.path.abspath(base))
        except OSError as error:
            reasons.append(f"{base}: {error.strerror}")
    raise ResourceError(
        f"no folder is usable for Ray's sockets and logs ({'; '.join(reasons)}). Set TMPDIR to one that can be written "
        "and has a short path",
        code="TEMP_FOLDER",
    )


def _locked_folder(base: str) -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=base))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # Some file systems have no locks; their folders never count as abandoned.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / _FOLDER_MARKER).touch()  # After the lock, so that no other command removes it.
    return folder, lock


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):
            entry = folder.lstat()
            if (
                not stat.S_ISDIR(entry.st_mode)
                or entry.st_uid != os.getuid()
                or not (folder / _FOLDER_MARKER).is_file()
            ):
                continue
            # No links: any user can put one into /tmp.
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Fails while the folder's command runs.
                remove_tree(folder)
            finally:
                os.close(handle)


@contextmanager
def _discarded_stderr() -> Iterator[None]:
    """Discard what Ray's core writes to file descriptor 2: log level and failures, which its log files have too."""
    sys.stderr.flush()
    stderr, null_device = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null_device)


def _silence_ray_loggers() -> None:
    """Keep Ray's loggers off the console. Ray's log files still have everything."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1)  # Errors arrive as exceptions.
