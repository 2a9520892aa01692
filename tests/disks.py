"""Small file systems in memory, for tests of full disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str = "64k") -> Iterator[Path]:
    """Mount a file system of this size at `path`. The test is skipped if mounting is not permitted."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield path
    finally:
        # Processes of a cluster may still be closing files there.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def resize(path: Path, size: str) -> None:
    """Change the size of a file system of `small_disk`."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)
