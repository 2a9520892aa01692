"""One rank of an all-reduce between nodes. Sent there by value, so nothing of hbt_ray is imported here.

It meets as Ray Train's workers do: a store at the first rank's address, then connections from everyone to everyone.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

MEBIBYTES = 16
ROUNDS = 5


class Rank:
    """Of `world_size`; the first one, 0, has the store."""

    def __init__(self) -> None:
        self._store: Any = None
        self._stage = "start"

    def open_store(self, address: str, seconds: float) -> int:
        """At rank 0, before the others come: the port."""
        dist = _distributed()
        patience = timedelta(seconds=seconds)
        # A socket of our own, as the store itself would listen on every interface.
        listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        port = int(listener.getsockname()[1])
        self._store = dist.TCPStore(
            address,
            port,
            is_master=True,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return port

    def all_reduce(
        self, backend: str, rank: int, world_size: int, address: str, port: int, device: str, seconds: float
    ) -> dict[str, Any]:
        """The stage that was reached (`store`, `group`, `reduce` or `done`), with the error that ended it.

        Returns:
            `stage`, `error` and, when done, `seconds` of a round, the median.
        """
        self._stage = "store"
        try:
            taken = self._rounds(backend, rank, world_size, address, port, device, timedelta(seconds=seconds))
        except Exception as error:  # torch raises its own errors and bare RuntimeErrors; any is to be told.
            return {"stage": self._stage, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        return {"stage": "done", "error": "", "seconds": sorted(taken)[len(taken) // 2]}

    def _rounds(
        self, backend: str, rank: int, world_size: int, address: str, port: int, device: str, patience: timedelta
    ) -> list[float]:
        import torch

        dist = _distributed()
        store = self._store or dist.TCPStore(address, port, timeout=patience, wait_for_workers=False)
        self._stage = "group"
        if device != "cpu":
            torch.cuda.set_device(device)
        # A prefix of its own, since the store outlives the first backend.
        prefixed = dist.PrefixStore(backend, store)
        dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world_size, timeout=patience)
        try:
            self._stage = "reduce"
            taken = []
            for _ in range(ROUNDS):
                block = torch.ones(MEBIBYTES * 2**18, device=device)
                dist.barrier()
                begin = time.perf_counter()
                dist.all_reduce(block)
                total = float(block[-1])  # Waits for the device.
                taken.append(time.perf_counter() - begin)
                if total != world_size:
                    raise RuntimeError(f"the sum over {world_size} ranks is {total:g}")
            return taken
        finally:
            dist.destroy_process_group()


def _distributed() -> Any:
    """torch's module, whose stores its types leave out."""
    import torch.distributed

    return torch.distributed
