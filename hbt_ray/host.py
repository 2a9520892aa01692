"""What a process uses of its machine: processors, and memory that it keeps."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""


def usable_cpus() -> int:
    """Number of processors that this process may use.

    It is smaller than the machine's if a container's quota, an affinity or `LOKY_MAX_CPU_COUNT` says so. Threads beyond
    this number wait for each other.
    """
    from joblib import cpu_count

    return int(cpu_count())


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next tensors.

    By default glibc gives every large block back to the system, which then has to clear its pages again for each tensor
    of each layer. That costs an eighth of an encoder's time on two cores. The process grows to its peak and stays so.
    In threads it helps only if MALLOC_ARENA_MAX=1 was set when the process began. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
