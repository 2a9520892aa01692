"""The heap of a process that computes on a CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next tensors.

    By default glibc gives every large block back to the system, which then has to clear its pages anew for each tensor
    of each layer: an eighth of the time of an encoder on two cores. The process grows to its peak and stays there.
    In threads it helps where MALLOC_ARENA_MAX=1 was set when the process began. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
