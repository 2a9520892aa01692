"""The cost of a checkpoint for training: ours beside that of transformers' Trainer (and so sentence-transformers').

The model has the size of multilingual-e5-small (12 layers of 384, 118 M parameters, random) and AdamW: 1.4 GB.

- Trainer's way: `save_pretrained` of the model and `torch.save` of the optimiser, while training waits; no checksum,
  nothing brought to the disk, a half-written folder where the process dies.
- hbt_ray at once: all that ours does, while training waits (as before a preemption).
- hbt_ray: the state is copied; a thread writes, hashes and syncs it while training goes on.

Sides take turns; the median of rounds counts. *Blocked* is how long training stands still for the call. *In all* is
what it adds to the wall time of the steps beside which it is written: the thread takes memory bandwidth and, where
training uses every core, computing time. *CPU* is the same in seconds of all threads of the process. Steps are timed
before each checkpoint, so a busy machine slows both alike.

    python benchmarks/checkpoint.py [--json] [--rounds 5] [--vocabulary 250002] [--folder DIR]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import BertConfig, BertModel

from hbt_ray.storage import atomic_folder
from hbt_ray.train.checkpoint import format as checkpoint_format
from hbt_ray.train.checkpoint.directory import CheckpointDirectory

PEER, AT_ONCE, OURS = "Trainer's way", "hbt_ray at once", "hbt_ray"
ROWS, TOKENS, STEPS_BEFORE = 8, 16, 5
Figures = dict[str, float]


@dataclass
class Training:
    """A plain training step, with the attributes that `take_snapshot` reads."""

    encoder: BertModel
    optimiser: torch.optim.Optimizer
    objective: nn.Module = field(default_factory=nn.Module)
    ema: None = None
    rank_sizes: tuple[int, ...] = (ROWS,)

    def run(self) -> None:
        ids = torch.randint(self.encoder.config.vocab_size, (ROWS, TOKENS))
        vectors = nn.functional.normalize(self.encoder(ids).last_hidden_state.mean(1))
        loss = nn.functional.cross_entropy(vectors @ vectors.T / 0.05, torch.arange(ROWS))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


class Writer:
    """Stand-in for Ray Train's upload thread, in which `hbt_ray.train.checkpoint.manager` writes checkpoints."""

    def __init__(self, root: Path) -> None:
        self._shelf, self._thread = CheckpointDirectory(root), ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def save(self, training: Training, step: int, *, at_once: bool = False) -> None:
        self._last = self._thread.submit(self._publish, checkpoint_format.take_snapshot(training, step, {}), step)
        if at_once:
            self._last.result()

    def _publish(self, taken: checkpoint_format.Snapshot, step: int) -> None:
        with atomic_folder(self._shelf.path(step)) as folder:
            checkpoint_format.write_checkpoint(folder, taken)
        self._shelf.prune(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=250_002, help="rows of the embedding; fewer take less memory")
    parser.add_argument("--folder", type=Path, help="on the storage to be measured; a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        training = start(options.vocabulary)
        sides = compare(training, Path(folder), options.rounds)
    size = sum(parameter.nbytes for parameter in training.encoder.parameters()) * 3  # Weights and AdamW's two moments.
    show(sides, size, as_json=options.json)


def start(vocabulary: int) -> Training:
    torch.manual_seed(0)
    sizes = BertConfig(vocab_size=vocabulary, hidden_size=384, num_hidden_layers=12, intermediate_size=1536)
    encoder = BertModel(sizes, add_pooling_layer=False)
    made = Training(encoder, torch.optim.AdamW(encoder.parameters(), lr=1e-5, fused=True))
    made.run()  # The optimiser has its moments from here on.
    return made


def compare(training: Training, folder: Path, rounds: int) -> dict[str, Figures]:
    """Medians over rounds, after a first one that is not counted, in which every side allocates its memory."""
    peer, found = folder / "peer", dict[str, list[Figures]]()
    writer = Writer(folder / "ours")

    def save_as_peer(step: int) -> None:
        shutil.rmtree(peer, ignore_errors=True)
        training.encoder.save_pretrained(peer)
        torch.save(training.optimiser.state_dict(), peer / "optimizer.pt")

    def save_at_once(step: int) -> None:
        writer.save(training, step, at_once=True)

    def save(step: int) -> None:
        writer.save(training, step)

    steps = itertools.count()
    for number in range(rounds + 1):
        for name, way in ((PEER, save_as_peer), (AT_ONCE, save_at_once), (OURS, save)):
            figures = measure(training, way, writer, next(steps))
            if number:
                found.setdefault(name, []).append(figures)
    return {
        name: {key: statistics.median(each[key] for each in many) for key in many[0]} for name, many in found.items()
    }


def measure(training: Training, save: Callable[[int], None], writer: Writer, step: int) -> Figures:
    usual = Span.median([Span.of(training.run) for _ in range(STEPS_BEFORE)])
    beside = 0

    def train_beside() -> None:
        nonlocal beside
        while writer.busy:
            training.run()
            beside += 1

    blocked = Span.of(lambda: save(step))
    rest = Span.of(train_beside)
    # Steps beside the writing take longer than usual; the difference is part of the checkpoint's cost.
    return {
        "blocked_seconds": blocked.wall,
        "in_all_seconds": blocked.wall + rest.wall - beside * usual.wall,
        "cpu_seconds": blocked.cpu + rest.cpu - beside * usual.cpu,
        "steps_beside": beside,
        "step_seconds": usual.wall,
    }


@dataclass(frozen=True)
class Span:
    """Seconds of the clock, and of all threads of this process."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], None]) -> Span:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)

    @classmethod
    def median(cls, spans: list[Span]) -> Span:
        return cls(statistics.median(each.wall for each in spans), statistics.median(each.cpu for each in spans))


def show(sides: dict[str, Figures], size: int, *, as_json: bool) -> None:
    ratios = {
        key: sides[PEER][f"{key}_seconds"] / max(sides[OURS][f"{key}_seconds"], 1e-3) for key in ("blocked", "in_all")
    }
    if as_json:
        print(json.dumps({"bytes": size, "sides": sides, "ratio": ratios}))
        return
    table = Table(title=f"A checkpoint of {size / 1e9:.2f} GB, {torch.get_num_threads()} threads")
    for column in ("", "blocked s", "in all s", "CPU s", "steps beside", "a step s"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in sides.items():
        keys = ("blocked_seconds", "in_all_seconds", "cpu_seconds", "steps_beside", "step_seconds")
        table.add_row(name, *(f"{figures[key]:.2f}" for key in keys))
    console = Console()
    console.print(table)
    console.print(f"Training stands still {ratios['blocked']:.1f} times shorter; in all {ratios['in_all']:.1f} times.")


if __name__ == "__main__":
    main()
