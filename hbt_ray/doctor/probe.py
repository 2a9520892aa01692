"""The part of `hbt doctor` that runs on each node: facts about the machine, marker files, an all-reduce.

Ray sends this module by value, because hbt_ray may be missing on a node or be another version. So it imports nothing of
hbt_ray.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import ipaddress
import os
import platform
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "transformers", "pyarrow")
BLOCK_MEBIBYTES = 16
"""Size of the block that the ranks sum."""
ROUNDS = 5
DRIVER_MARKER = "driver"
VISIBLE_SECONDS = 3.0
"""A network file system may show a new file this much later."""


class NodeProbe:
    """Probe of one machine: a Ray actor on each node, a plain object in the driver's process."""

    def __init__(self) -> None:
        self._store: Any = None
        self._markers = ExitStack()

    def facts(self) -> dict[str, Any]:
        """Return the fields of `NodeFacts` that are read on the machine itself."""
        hbt_ray_version, code = _hbt_ray_version()
        # A broken installation has no name.
        distributions = {(each.metadata["Name"] or "").lower(): each.version for each in metadata.distributions()}
        faiss = tuple(sorted(name for name in distributions if name.startswith("faiss")))
        return {
            "versions": {
                "Python": platform.python_version(),
                **{name: distributions.get(name, "") for name in PACKAGES},
                "faiss": distributions[faiss[0]] if faiss else "",
                "hbt_ray": hbt_ray_version,
            },
            "code": code,
            "faiss": faiss,
            **_torch(),
            "cuda_driver": _cuda_driver(),
            "shm_bytes": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
            "free_bytes": _available_memory(),
            "listening": _ray_listening_addresses(),
            "asks_token": _asks_token(),
        }

    def now(self) -> float:
        return time.time()

    def hold_marker(self, folder: str, token: str) -> dict[str, Any]:
        """Write the driver's marker, which stays until `release_marker`. Returns fields of `NodeFacts`."""
        return {"storage_free_bytes": self._markers.enter_context(marker_file(folder, token))}

    def release_marker(self) -> None:
        self._markers.close()

    def probe_storage(self, folder: str, token: str) -> dict[str, Any]:
        """Write a marker, and look for the driver's. Returns fields of `NodeFacts`."""
        with marker_file(folder, token, uuid.uuid4().hex) as free_bytes:
            return {"storage_free_bytes": free_bytes, "sees_driver": sees_driver(folder, token)}

    def sees_driver(self, folder: str, token: str) -> bool:
        return sees_driver(folder, token)

    def open_store(self, address: str, seconds: float) -> int:
        """Open the rendezvous store of rank 0, before the other ranks connect. Returns its port."""
        # The socket is ours, because the store itself would listen on every interface.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family)
        port = int(listener.getsockname()[1])
        self._store = _distributed().TCPStore(
            address,
            port,
            is_master=True,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return port

    def all_reduce(
        self, backend: str, rank: int, world_size: int, address: str, port: int, device: str, seconds: float
    ) -> dict[str, Any]:
        """Join a process group, as Ray Train's workers do, and sum a block a few times.

        Returns:
            `stage`: the last stage that this rank entered (`store`, `group`, `reduce` or `done`); `error`: what ended
            it; `seconds`: the median time of a round, if it is done.
        """
        dist, timeout, stage, durations = _distributed(), timedelta(seconds=seconds), "store", []
        try:
            import torch

            store = self._store or dist.TCPStore(address, port, timeout=timeout, wait_for_workers=False)
            stage = "group"
            if device != "cpu":
                torch.cuda.set_device(device)
            # The prefix separates the backends, because the store outlives the first of them.
            store = dist.PrefixStore(backend, store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
            stage = "reduce"
            for _ in range(ROUNDS):
                block = torch.ones(BLOCK_MEBIBYTES * 2**18, device=device)  # 2**18 float32 are 1 MiB.
                dist.barrier()  # The time must not include the wait for a late rank.
                start = time.perf_counter()
                dist.all_reduce(block)
                total = float(block[-1])  # Waits for the device.
                durations.append(time.perf_counter() - start)
                if total != world_size:
                    raise RuntimeError(f"the sum over {world_size} ranks is {total:g}")
        except Exception as error:  # torch raises its own classes and bare RuntimeErrors; each is a result here.
            return {"stage": stage, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        return {"stage": "done", "seconds": sorted(durations)[len(durations) // 2]}


@contextmanager
def marker_file(folder: str, token: str, name: str = DRIVER_MARKER) -> Iterator[int]:
    """Keep a marker in `FOLDER/.hbt-doctor-TOKEN` while the block runs; yield the number of free bytes there.

    Folders that had to be created are removed if they are empty.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(folder, f".hbt-doctor-{token}", name)
    created = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
        yield shutil.disk_usage(path.parent).free
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            for parent in created:
                parent.rmdir()


def sees_driver(folder: str, token: str) -> bool:
    """Whether the driver's marker is visible and complete, at once or within `VISIBLE_SECONDS`."""
    path, deadline = Path(folder, f".hbt-doctor-{token}", DRIVER_MARKER), time.monotonic() + VISIBLE_SECONDS
    while True:
        with suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="ascii") == token:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _hbt_ray_version() -> tuple[str, str]:
    """Return the version that can be imported, and a digest of its modules: code may change within a version."""
    try:
        package = importlib.import_module("hbt_ray")
    except ImportError:
        return "", ""
    root, digest = Path(package.__path__[0]), hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return package.__version__, digest.hexdigest()[:8]


def _torch() -> dict[str, Any]:
    try:
        import torch

        return {"torch_gpus": torch.cuda.device_count(), "cuda_build": torch.version.cuda or ""}
    except (ImportError, OSError, RuntimeError) as error:  # A library that it is linked with may be missing.
        return {"torch_error": f"{type(error).__name__}: {error}"}


def _distributed() -> Any:
    """torch.distributed, untyped: torch's type hints leave out the stores."""
    import torch.distributed

    return torch.distributed


def _cuda_driver() -> str:
    number = ctypes.c_int()
    with suppress(OSError, AttributeError):
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0:
            return f"{number.value // 1000}.{number.value % 1000 // 10}"  # CUDA 12.8 is 12080.
    return ""


def _available_memory() -> int:
    """Return bytes; 0 if the system is not Linux."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def _asks_token() -> bool:
    # Private API: Ray has no public function for the authentication mode. Older versions have no tokens.
    from ray import _raylet

    mode: Any = getattr(_raylet, "get_authentication_mode", None)
    return mode is not None and mode() == _raylet.AuthenticationMode.TOKEN  # type: ignore[attr-defined]


def _ray_listening_addresses() -> dict[str, int]:
    """Return address → number of ports of the cluster's processes on this node; empty if the system is not Linux.

    A process belongs to the cluster if it has a file of the session open: each of them has a log.
    """
    # Private API: the session's folder of a worker has no public name.
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return {}
    session, sockets, counts = node.get_session_dir_path(), listening_sockets(), Counter[str]()
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        links = []
        with suppress(OSError):  # The process ended, or belongs to another user.
            for descriptor in descriptors.iterdir():
                with suppress(OSError):
                    links.append(os.readlink(descriptor))
        if any(link.startswith(f"{session}/") for link in links):
            counts.update(sockets[link] for link in links if link in sockets)
    return dict(counts)


def listening_sockets() -> dict[str, str]:
    """Return `socket:[INODE]` → address of each TCP socket on this machine that listens."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A":  # The kernel's number for LISTEN.
                addresses[f"socket:[{fields[9]}]"] = parse_kernel_address(fields[1].partition(":")[0])
    return addresses


def parse_kernel_address(digits: str) -> str:
    """Parse an address of /proc/net/tcp: words of 32 bits in the machine's byte order (little-endian)."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return "every interface" if address.is_unspecified else str(address)
