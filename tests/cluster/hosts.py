"""Hosts on this machine: network namespaces on a bridge, whose links can be slow or cut. Needs root, `ip` and `tc`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.job.cluster import processes_of, with_token

BRIDGE, HERE = "hbtbr0", "10.77.31.1"
"""The head is on the bridge itself."""
PORT = 26379
ROOT = Path(__file__).resolve().parents[2]


def possible() -> bool:
    """Whether such hosts can be made here."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        return False
    made = subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
    return made.returncode == 0


@dataclass(frozen=True)
class Host:
    number: int

    @property
    def space(self) -> str:
        return f"hbthost{self.number}"

    @property
    def link(self) -> str:
        """The end of its cable at the bridge."""
        return f"hbtlink{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.31.{10 + self.number}"

    def slow(self, rate: str) -> None:
        """Both ways, such as `4mbit`."""
        shape = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        _call("tc", "qdisc", "add", "dev", self.link, *shape)
        _call("ip", "netns", "exec", self.space, "tc", "qdisc", "add", "dev", "eth0", *shape)

    def processes(self) -> list[str]:
        """Their names; Ray gives its own ones that tell what they do."""
        known = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False)
        names = []
        for process in known.stdout.split():
            with suppress(OSError):
                names.append(Path(f"/proc/{process}/cmdline").read_text("utf-8").replace("\0", " ").strip())
        return names

    def trains(self) -> bool:
        return any(name.startswith("ray::") and "TrainWorker" in name for name in self.processes())

    def cut(self) -> None:
        _call("ip", "link", "set", self.link, "down")


@contextmanager
def hosts(count: int, hidden: Path | None = None) -> Iterator[tuple[dict[str, str], list[Host]]]:
    """A Ray cluster of a head without CPUs and hosts of one CPU; yields the driver's environment, and the hosts.

    Args:
        hidden: a folder that hosts have as well, but which is another one on each.
    """
    everyone = [Host(number) for number in range(count)]
    folder = Path(tempfile.mkdtemp(prefix="hbt", dir="/tmp"))  # For Ray's sockets, whose paths are short.
    # A node that is not heard of is given up after ten seconds here, and after more than a minute by default.
    patience = {"RAY_health_check_timeout_ms": "2000", "RAY_health_check_period_ms": "1000"}
    environment = with_token(folder) | patience | {"PYTHONPATH": str(ROOT)}
    try:
        _lay_cables(everyone)
        _start(environment, folder / "head", "--head", f"--port={PORT}", f"--node-ip-address={HERE}", "--num-cpus=0")
        for host in everyone:
            _start(
                environment | {"GLOO_SOCKET_IFNAME": "eth0"}, folder / host.space,
                f"--address={HERE}:{PORT}", f"--node-ip-address={host.address}", "--num-cpus=1",
                host=host, hidden=hidden,
            )  # fmt: skip
        yield environment | {"RAY_ADDRESS": f"{HERE}:{PORT}"}, everyone
    finally:
        while left := processes_of(folder):
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.3)
        for host in everyone:
            for command in (["ip", "link", "del", host.link], ["ip", "netns", "del", host.space]):
                subprocess.run(command, capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _lay_cables(everyone: list[Host]) -> None:
    _call("ip", "link", "add", BRIDGE, "type", "bridge")
    _call("ip", "addr", "add", f"{HERE}/24", "dev", BRIDGE)
    _call("ip", "link", "set", BRIDGE, "up")
    for host in everyone:
        _call("ip", "netns", "add", host.space)
        _call("ip", "link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.space)
        _call("ip", "link", "set", host.link, "master", BRIDGE, "up")
        _call("ip", "-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _call("ip", "-n", host.space, "link", "set", device, "up")


def _start(
    environment: dict[str, str], folder: Path, *options: str, host: Host | None = None, hidden: Path | None = None
) -> None:
    ray = [str(Path(sys.executable).parent / "ray"), "start", *options, f"--temp-dir={folder}"]
    within = ["ip", "netns", "exec", host.space] if host else []
    if hidden:  # What is mounted in there is seen in there only.
        within += ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
    more = ["--object-store-memory=150000000", "--include-dashboard=false"][: 1 if host else 2]
    done = subprocess.run(
        [*within, *ray, *more], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
