"""The Ray session: join the cluster that the environment names, or start one on this machine, quietly."""

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
from hbt_ray.errors import Interrupted, ResourceError
from hbt_ray.host import usable_cpus
from hbt_ray.storage import remove_tree

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
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
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
    # Ray then takes 127.0.0.1 for the node's address on every system, and its servers listen there alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
}
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_FOLDER_PREFIX = "hbt_ray-"
_FOLDER_MARK = "made_by_hbt_ray"
"""A file in each of our session folders; a folder without it is not ours and is never removed."""
_MAX_FOLDER_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""The kernel allows 107 bytes for the path of a socket."""
_FOLDER_VARIABLE = "HBT_SESSION_FOLDER"
"""Set in all processes of a cluster that a command started on this machine."""
_signal_received: int | None = None


def configure(*, local: bool) -> None:
    """Set what Ray reads when it is imported or started; what the environment says already stays. Call it before Ray is
    imported."""
    for name, value in (_SETTINGS | _LOCAL_SETTINGS if local else _SETTINGS).items():
        os.environ.setdefault(name, value)


def session_folder() -> Path | None:
    """Where sockets and logs of the cluster lie that a command started on this machine, if this is one."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def received_signal() -> int | None:
    """The signal that asked this process to end, if any."""
    return _signal_received


def catch_termination() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does. Signals that are ignored (`nohup`) stay so."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> Any:
    global _signal_received
    _signal_received = number
    handler = signal.getsignal(signal.SIGINT)  # Ray Train and Ray Tune set their own, which end workers in order.
    if callable(handler):
        return handler(signal.SIGINT, frame)
    raise KeyboardInterrupt


def configure_command() -> None:
    """`configure` by what `RAY_ADDRESS` says."""
    configure(local=not _address())


def _address() -> str:
    """The cluster that the environment names; empty for one on this machine."""
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        os.environ.pop("RAY_ADDRESS", None)  # Ray would take an empty one for an address.
    return os.environ.get("RAY_ADDRESS", "")


@contextmanager
def session(*, spare_cpus: bool = True) -> Iterator[None]:
    """Connect for the length of the block; a session that was there before is used and left as it is.

    Args:
        spare_cpus: a cluster started here counts more CPUs than there are, for work whose workers reserve theirs first.

    Raises:
        ResourceError: the cluster cannot be joined, or Ray cannot start on this machine.
        Interrupted: Ctrl-C, or a signal that ends like it.
    """
    configure(local=not (address := _address()))
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        with _cluster(address) if address else _local_cluster(2 * usable_cpus() + 2 if spare_cpus else usable_cpus()):
            catch_termination()  # Ray has set its own handler, which ends the process without a word.
            _hush()
            yield
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the last checkpoint") from None


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Join the cluster at `address` for the length of the block."""
    import ray
    import ray.exceptions

    try:
        _knock(address)
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **_job_config())
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _not_joined(address, error) from None
    try:
        _keep_workers_free()
        yield
    finally:
        ray.shutdown()


def _job_config() -> dict[str, Any]:
    """An argument of `ray.init` that keeps the working directory off the workers' module path: a `datasets.py` there
    would be imported instead of the library. Ray has no option for that."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # A submitted job has its working directory from Ray.
        return {}
    from ray.job_config import JobConfig

    class _WithoutWorkingDirectory(JobConfig):  # type: ignore[misc]  # Ray has no types.
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # Ray adds the directories of the script and of the shell only if this is false.

    home = str(Path(hbt_ray.__file__).parents[1])
    from_here = home == os.getcwd() and sys.path[:1] in ([home], [""])  # `python -m hbt_ray` in a checkout.
    return {"job_config": _WithoutWorkingDirectory(_py_driver_sys_path=[home] if from_here else [])}


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
    """Ray tries an address for minutes, and may end the process then. What is no HOST:PORT it refuses at once.

    Raises:
        OSError: nobody is there.
    """
    if address == "auto":  # The cluster that was started last on this machine, which may have ended.
        from ray._private.services import canonicalize_bootstrap_address

        address = canonicalize_bootstrap_address(address) or ""
        if not address:
            raise ConnectionError("no cluster was started on this machine")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


@contextmanager
def _local_cluster(num_cpus: int) -> Iterator[None]:
    """Start a cluster on this machine for the length of the block. It listens on the loopback interface alone."""
    import ray

    if not any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        # A token of this session alone; Ray would keep one for all in the home folder, which may not be writable.
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
        if not failed:  # Otherwise the logs stay until the next command, for whoever looks for the reason.
            with suppress(OSError):
                remove_tree(folder)
        os.close(lock)


def _start_ray(folder: Path, num_cpus: int) -> None:
    import ray

    try:
        with _held_back_stderr(), _own_process_groups():
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
    """A new folder for Ray's sockets and logs, and a lock on it that ends with this process. Those of processes that
    died are removed.

    Raises:
        ResourceError: no folder can be written whose path is short enough for sockets.
    """
    reasons = []
    for base in dict.fromkeys((os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp")):
        most = _MAX_FOLDER_BYTES - len(f"/{_FOLDER_PREFIX}12345678")
        if len(os.fsencode(os.path.abspath(base))) > most:
            reasons.append(f"{base} has more than {most} bytes")
            continue
        try:
            _remove_abandoned(Path(base))
            return _locked_folder(os.path.abspath(base))
        except OSError as error:
            reasons.append(f"{base}: {error.strerror}")
    raise ResourceError(
        f"there is no folder for Ray's sockets and logs ({'; '.join(reasons)}). Set TMPDIR to one that can be written "
        "and has a short path",
        code="TEMP_FOLDER",
    )


def _locked_folder(base: str) -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=base))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # Some file systems have no locks; then nothing is ever taken for abandoned.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / _FOLDER_MARK).touch()  # After the lock, so that no other command takes it for abandoned.
    return folder, lock


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):
            entry = folder.lstat()
            if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.getuid() or not (folder / _FOLDER_MARK).is_file():
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
            finally:
                os.close(handle)


@contextmanager
def _own_process_groups() -> Iterator[None]:
    """Let Ray's processes leave the command's process group: a signal to the group, as `timeout` sends it, then reaches
    the command alone, which ends them in order. Otherwise Ray ends the command without a word once its raylet died."""
    from ray._private import utils

    before_exec = utils.set_kill_on_parent_death_linux  # Ray calls it in each new process; it has no other hook there.

    def leave() -> None:
        os.setpgid(0, 0)
        before_exec()

    utils.set_kill_on_parent_death_linux = leave
    try:
        yield
    finally:
        utils.set_kill_on_parent_death_linux = before_exec


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Ray's core writes its log level and its failures on the bare file descriptor. Its logs have them as well."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _hush() -> None:
    """Leave the console to our own progress; Ray's files keep everything."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1)  # An error reaches us as an exception.
