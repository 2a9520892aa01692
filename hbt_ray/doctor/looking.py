"""What is found on the machine that this runs on. Sent to nodes by value, and hbt_ray may be missing there."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import ipaddress
import os
import platform
import resource
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "transformers", "pyarrow")


def look() -> dict[str, Any]:
    """The facts of `Machine` that the machine itself knows."""
    version, code = _hbt_ray()
    return {
        "versions": {
            "Python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "faiss": next((_version(name) for name in _faiss()), ""),
            "hbt_ray": version,
        },
        "code": code,
        "faiss": _faiss(),
        **_torch(),
        "cuda_driver": _cuda_driver(),
        "shm_bytes": _size("/dev/shm"),
        "free_bytes": _available(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "listening": _listening(),
        "asks_token": _asks_token(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _faiss() -> tuple[str, ...]:
    found = {(each.metadata["Name"] or "").lower() for each in metadata.distributions()}
    return tuple(sorted(name for name in found if name.startswith("faiss")))


def _hbt_ray() -> tuple[str, str]:
    """The version of what is imported, installed or not, and a digest: versions stay while modules change."""
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


def _cuda_driver() -> str:
    try:
        library, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)):
            return ""
    except (OSError, AttributeError):
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _size(folder: str) -> int:
    try:
        there = os.statvfs(folder)
    except OSError:
        return 0
    return there.f_frsize * there.f_blocks


def _available() -> int:
    """Bytes of memory; Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _asks_token() -> bool:
    from ray import _raylet

    mode: Any = getattr(_raylet, "get_authentication_mode", None)  # Older versions have no tokens.
    return mode is not None and mode() == _raylet.AuthenticationMode.TOKEN  # type: ignore[attr-defined]


def _listening() -> dict[str, int]:
    """Address → number of ports of the cluster's processes here, which all have a log open; Linux only."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return {}
    folder, sockets, counts = node.get_session_dir_path(), _listening_sockets(), Counter[str]()
    for process in Path("/proc").glob("[0-9]*/fd"):
        links = []
        with suppress(OSError):  # It ended, or is another user's.
            for link in process.iterdir():
                with suppress(OSError):
                    links.append(os.readlink(link))
        if any(link.startswith(f"{folder}/") for link in links):
            counts.update(sockets[link] for link in links if link in sockets)
    return dict(counts)


def _listening_sockets() -> dict[str, str]:
    """`socket:[INODE]` → address, of all TCP sockets here that listen."""
    found = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A":  # LISTEN
                found[f"socket:[{fields[9]}]"] = _address(fields[1].partition(":")[0])
    return found


def _address(digits: str) -> str:
    """The kernel writes words of 32 bits in the machine's byte order, which is little-endian where Ray runs."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return "every interface" if address.is_unspecified else str(address)
