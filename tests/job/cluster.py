"""A cluster of two nodes on this machine, with a job server and a token: a head that takes no work, and a worker.

As a script it stays until Ctrl-C or SIGTERM: `python -m tests.job.cluster`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TwoNodes:
    folder: Path
    """Of Ray's sessions; every process of the cluster has a file open below it."""
    address: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever speaks to its job server."""
        here = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "HBT_"))}
        return here | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_API_SERVER_ADDRESS": self.address,
            "PYTHONPATH": str(ROOT),
        }

    @property
    def processes(self) -> list[int]:
        return processes_of(self.folder)


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Nothing of it runs after the block, whatever happens within."""
    # Ray's sockets live here, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="hbt", dir="/tmp"))
    (folder / "token").write_text(secrets.token_hex(32), encoding="utf-8")
    (folder / "token").chmod(0o600)
    gcs, dashboard, head_agent, worker_agent = _free_ports(4)
    cluster = TwoNodes(folder, f"http://127.0.0.1:{dashboard}", (folder / "token").read_text(encoding="utf-8"))
    try:
        _start(
            cluster,
            "--head", f"--port={gcs}", "--num-cpus=0", f"--temp-dir={folder / 'head'}", "--include-dashboard=true",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={head_agent}",
        )  # fmt: skip
        # A folder of its own: with a common one, the second node unpacks the job's files over those of the first.
        _start(
            cluster,
            f"--address=127.0.0.1:{gcs}", "--num-cpus=4", f"--temp-dir={folder / 'worker'}",
            f"--dashboard-agent-listen-port={worker_agent}",
        )  # fmt: skip
        yield cluster
    finally:
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(cluster: TwoNodes, *options: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # A job's `python` is the nodes'.
    environment = cluster.environment | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    del environment["RAY_API_SERVER_ADDRESS"], environment["PYTHONPATH"]  # The job brings hbt_ray along.
    ray = str(Path(sys.executable).parent / "ray")
    with (cluster.folder / "start.log").open("ab") as log:
        command = [ray, "start", *options, "--object-store-memory=200000000"]
        done = subprocess.run(command, env=environment, cwd=cluster.folder, stdout=log, stderr=log, timeout=120)
    if done.returncode:
        raise RuntimeError((cluster.folder / "start.log").read_text(encoding="utf-8"))


def _end(folder: Path) -> None:
    """Twice: the first signal may meet a process that is just starting another."""
    for _ in range(20):
        left = processes_of(folder)
        if not left:
            return
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.5)
    raise RuntimeError(f"still running: {left}")


def processes_of(folder: Path) -> list[int]:
    """Processes with an open file or their working directory below a folder; Ray gives its own other names."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _is_below(entry, folder)
    ]


def _is_below(process: Path, folder: Path) -> bool:
    try:
        links = [process / "cwd", *(process / "fd").iterdir()]
    except OSError:  # It ended, or is another user's.
        return False
    for link in links:
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                return True
        except OSError:
            continue
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with two_nodes() as cluster:
        for key, value in cluster.environment.items():
            if key.startswith("RAY_"):
                print(f"export {key}={value}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
