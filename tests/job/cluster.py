"""A cluster on this machine, with a job server and a token: a head that takes no work, and two nodes that do.

As a script it stays until Ctrl-C or SIGTERM: `python -m tests.job.cluster`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class LocalCluster:
    folder: Path
    """Of Ray's sessions; every process of the cluster has a file open below it."""
    address: str
    gcs: str
    """What RAY_ADDRESS is on its nodes."""
    nodes: dict[str, str]
    """The environment of its nodes."""

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever speaks to its job server."""
        return self.nodes | {"RAY_API_SERVER_ADDRESS": self.address, "PYTHONPATH": str(ROOT)}

    @property
    def metrics(self) -> set[str]:
        """Names that the nodes export now, as Prometheus sees them."""
        targets = json.loads((self.folder / "head" / "prom_metrics_service_discovery.json").read_text("utf-8"))
        names = set()
        for target in {target for group in targets for target in group["targets"]}:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                names |= set(re.findall(r"^(\w+)", answer.read().decode(), re.MULTILINE))
        return names

    @property
    def processes(self) -> list[int]:
        return processes_of(self.folder)


def with_token(folder: Path) -> dict[str, str]:
    """The environment of a cluster with a token of its own."""
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    here = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "HBT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # A job's `python` is the nodes'.
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    return here | ours | {"PATH": path}


@contextmanager
def local_cluster() -> Iterator[LocalCluster]:
    """Nothing of it runs after the block, whatever happens within."""
    # Ray's sockets live here, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="hbt", dir="/tmp"))
    gcs, dashboard, head_agent, *agents = _free_ports(5)
    cluster = LocalCluster(folder, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", with_token(folder))
    try:
        _start(
            cluster,
            "--head", f"--port={gcs}", "--num-cpus=0", f"--temp-dir={folder / 'head'}", "--include-dashboard=true",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={head_agent}",
        )  # fmt: skip
        for number, agent in enumerate(agents):
            # Folders of their own: with a common one, a second node unpacks the job's files over those of the first.
            _start(
                cluster,
                f"--address=127.0.0.1:{gcs}", "--num-cpus=2", f"--temp-dir={folder / str(number)}",
                f"--dashboard-agent-listen-port={agent}",
            )  # fmt: skip
        yield cluster
    finally:
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(cluster: LocalCluster, *options: str) -> None:
    # Every node has a cache of its own, as on machines of their own.
    cache = next(option for option in options if option.startswith("--temp-dir=")).removeprefix("--temp-dir=")
    environment = cluster.nodes | {
        "RAY_metrics_report_interval_ms": "1000",
        "XDG_CACHE_HOME": f"{cache}/cache",
        # The autoscaler's default port belongs to whichever cluster of this machine came first.
        "AUTOSCALER_METRIC_PORT": str(_free_ports(1)[0]),
    }
    ray = str(Path(sys.executable).parent / "ray")
    with (cluster.folder / "start.log").open("ab") as log:
        command = [ray, "start", *options, "--object-store-memory=200000000"]
        done = subprocess.run(command, env=environment, cwd=cluster.folder, stdout=log, stderr=log, timeout=900)
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
    with local_cluster() as cluster:
        for key, value in cluster.environment.items():
            if key.startswith("RAY_"):
                print(f"export {key}={value}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
