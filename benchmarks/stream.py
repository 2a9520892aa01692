"""The stream beside a torch DataLoader: the same rows, the same tokenizer, the same cores.

Both sides make the local batches of one rank with `Loader.local` (plan → texts → ids). Ours runs it in Ray Data tasks,
the peer in worker processes of `torch.utils.data.DataLoader`, as many as there are cores. Rows per second are counted
after the first batch. The stall is how long a simulated training step of 50 ms waits for its batch, once warm.

    python benchmarks/stream.py [--json] [--steps 1200]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from hbt_ray.data.local import Loader, LocalBatch, TokenisingConfig
from hbt_ray.data.policy import PlanConfig
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store import Store
from hbt_ray.data.stream import Origin, StreamConfig, stream
from hbt_ray.session import session
from hbt_ray.train.model import ModelConfig, build, tokenising

BATCH, STEP_SECONDS, STALL_STEPS = 256, 0.05, 200
CORES = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=1_200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        origin = prepared(Path(folder))
        peer = measure(lambda steps: torch_loader(origin, steps), options.steps)
        with session():
            ours = measure(lambda steps: stream(origin, 0, steps, StreamConfig(tasks_per_worker=CORES)), options.steps)
    ratio = ours["rows_per_second"] / peer["rows_per_second"]
    if options.json:
        print(json.dumps({"ours": ours, "peer": peer, "ratio": ratio}))
        return
    table = Table("side", "first batch s", "rows/s", "stall of a 50 ms step")
    for name, side in (("hbt_ray stream", ours), ("torch DataLoader", peer)):
        stall = f"{side['stall_share']:.2%}"
        table.add_row(name, f"{side['first_seconds']:.1f}", f"{side['rows_per_second']:,.0f}", stall)
    Console().print(table)
    Console().print(f"rows/s, ours / peer: {ratio:.2f}")


def prepared(folder: Path) -> Origin:
    """worldfacts in a store, and a tokenizer trained on it."""
    source = {"kind": "worldfacts"}
    prepare(StoreConfig.make({"path": str(folder / "store"), "sources": [source]}, "benchmark"))
    store = Store(folder / "store")
    config = ModelConfig(vocabulary=12_000, max_question_length=48, max_passage_length=64)
    how: TokenisingConfig = tokenising(build(config, store.sample_texts(store.manifest.languages)), config)
    return Origin(folder / "store", PlanConfig(batch_size=BATCH), how, rank=0, world_size=1)


def measure(make: Any, num_steps: int) -> dict[str, float]:
    begin = time.perf_counter()
    batches = iter(make(num_steps))
    next(batches)
    first = time.perf_counter()
    num_rows = sum(len(batch.items) for batch in batches)
    end = time.perf_counter()
    return {
        "first_seconds": first - begin,
        "rows_per_second": num_rows / (end - first),
        "stall_share": stall_share(make(STALL_STEPS)),
    }


def stall_share(batches: Iterable[LocalBatch]) -> float:
    """Waiting over waiting and working, the first ten steps left out."""
    waited, ready = 0.0, time.perf_counter()
    for number, _ in enumerate(batches):
        if number >= 10:
            waited += time.perf_counter() - ready
        time.sleep(STEP_SECONDS)
        ready = time.perf_counter()
    return waited / (waited + STEP_SECONDS * (STALL_STEPS - 10))


class Steps(Dataset[LocalBatch]):
    """Local batches by their step; every worker process opens the loader for itself."""

    def __init__(self, origin: Origin, num_steps: int) -> None:
        self._origin, self._num_steps = origin, num_steps
        self._loader: Loader | None = None

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> LocalBatch:
        origin = self._origin
        if self._loader is None:
            self._loader = Loader(origin.store, origin.plan, origin.tokenising)
        return self._loader.local(step, origin.rank, origin.world_size)


def torch_loader(origin: Origin, num_steps: int) -> Iterable[LocalBatch]:
    return DataLoader(
        Steps(origin, num_steps),
        batch_size=None,
        num_workers=CORES,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
    )


if __name__ == "__main__":
    main()
