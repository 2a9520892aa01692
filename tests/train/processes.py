"""Real processes for tests of the collectives: gloo over a file, no ports."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes


def on_ranks(world_size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(rank, *arguments)` in `world_size` processes; what each returned. A failing rank fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, folder, work, arguments)
        start_processes(_rank, arguments, nprocs=world_size, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    torch.save(work(rank, *arguments), Path(folder) / f"{rank}.pt")
    gc.collect()  # What still holds the group would end it a second time.
    dist.barrier()  # A rank that leaves at once may cut off what another still reads.
    dist.destroy_process_group()
