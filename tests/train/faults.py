"""A schedule of faults by (step, rank, place, action), for real runs: each happens once, whatever restarts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.worker.callbacks import Hooks
from tests.small_data import small_run

NUM_STEPS = 120


def faults_run(workspace: Path, *overrides: str) -> TrainConfig:
    """The small run with two mined negatives a row, and more checkpoints."""
    settings = (
        f"optimiser.steps={NUM_STEPS}",
        "checkpoints.every=5",
        "plan.negatives=2",
        f"negatives={workspace / 'mined'}",
    )
    return small_run(workspace, *settings, *overrides)


def kill() -> None:
    """As the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    """Without clean-up."""
    os._exit(1)


def stall() -> None:
    """Whatever it is stuck in."""
    time.sleep(3_600)


def refuse() -> None:
    """As a full disk does."""
    raise OSError(28, "No space left on device")


@dataclass(frozen=True)
class Start:
    """What one start of the workers saw."""

    ranks: frozenset[int]
    first: int
    last: int
    """Steps that every rank saw."""


@dataclass(frozen=True)
class Faults(Hooks):
    """`Faults(folder).at(7, 1, "batch", kill)`; the folder remembers what happened, and which items each rank saw."""

    folder: Path
    plan: tuple[tuple[int, int, str, Callable[[], None]], ...] = ()

    def at(self, step: int, rank: int, place: str, do: Callable[[], None]) -> Faults:
        """Places: batch, before_update, after_update, written (when the weights are on the disk, and no more)."""
        return replace(self, plan=(*self.plan, (step, rank, place, do)))

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        seen = {"step": batch.step, "rank": rank, "items": batch.items.tolist(), "time": time.time()}
        with (self.folder / f"seen-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(seen) + "\n")
        self._meet(batch.step, rank, "batch")

    def before_update(self, rank: int, step: int) -> None:
        self._meet(step, rank, "before_update")

    def after_update(self, rank: int, step: int) -> None:
        self._meet(step, rank, "after_update")

    def on_checkpoint_file(self, step: int, path: Path) -> None:
        if path.name == "weights.safetensors":
            self._meet(step, 0, "written")

    def _meet(self, *where: object) -> None:
        for number, (*place, do) in enumerate(self.plan):
            mark = self.folder / f"fault-{number}"
            if tuple(place) == where and not mark.exists():
                mark.touch()
                do()

    def happened(self) -> list[int]:
        """Numbers of the faults."""
        return sorted(int(path.name.removeprefix("fault-")) for path in self.folder.glob("fault-*"))

    def seen(self) -> list[tuple[int, list[int]]]:
        """Step and items of the global batch, as often as all ranks of one start saw it."""
        rows = [json.loads(line) for path in self.folder.glob("seen-*") for line in path.read_text().splitlines()]
        found: dict[tuple[int, int], dict[int, list[int]]] = {}
        for row in sorted(rows, key=lambda row: row["time"]):
            turns = [turn for step, turn in found if step == row["step"]]
            turn = next((turn for turn in turns if row["rank"] not in found[row["step"], turn]), len(turns))
            found.setdefault((row["step"], turn), {})[row["rank"]] = row["items"]
        return [(step, [item for rank in sorted(parts) for item in parts[rank]]) for (step, _), parts in found.items()]

    def starts(self) -> list[Start]:
        """Of the workers, in order; the ranks of a start are those whose first batches were of the same size."""
        ranks: list[tuple[float, int, list[int], int]] = []
        for path in self.folder.glob("seen-*"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            steps = [row["step"] for row in rows]
            ranks.append((rows[0]["time"], len(rows[0]["items"]), steps, rows[0]["rank"]))
        found = []
        for _, group in groupby(sorted(ranks), key=lambda one: one[1]):
            members = list(group)
            first, last = max(one[2][0] for one in members), min(one[2][-1] for one in members)
            found.append(Start(frozenset(one[3] for one in members), first, last))
        return found
