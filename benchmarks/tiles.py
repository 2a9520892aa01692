"""Tiled InfoNCE beside the whole matrix: time and memory of a forward and a backward pass.

The peer is what one writes down first: all scores at once, those of shared passages masked, and `F.cross_entropy`.
Both get the same normalised vectors, one passage a question, and every tenth passage is shared by two questions. Every
side runs in a process of its own. Memory is what the pass takes beside the vectors and their gradients: on a CPU the
high-water mark of the process, on a GPU that of its allocator. On a CPU one thread by default, and its seconds of work
beside those of the clock: on a busy machine the clock says more about the others.

    python benchmarks/tiles.py [--json] [--rows 1024 4096 16384] [--width 384] [--tile 2048] [--steps 3]
        [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

PEER, OURS = "whole matrix", "tiles"
TEMPERATURE = 0.05
DIGITS = {"seconds": ".3f", "cpu_seconds": ".3f", "peak_mib": ".0f"}
SHARED = ("width", "tile", "steps", "threads", "device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_024, 4_096, 16_384], help="questions, and passages")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--tile", type=int, default=2_048)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", choices=(PEER, OURS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options)))
        return
    sizes = {rows: {side: run(options, side, rows) for side in (PEER, OURS)} for rows in options.rows}
    if options.json:
        print(json.dumps({"rows": sizes, **{name: getattr(options, name) for name in SHARED}}))
        return
    title = f"Forward and backward, width {options.width}, tiles of {options.tile:,}, fp32 on {options.device}"
    columns = (
        "rows",
        "side",
        "seconds",
        "times the peer",
        "CPU seconds",
        "times the peer",
        "peak MiB",
        "times the peer",
    )
    table = Table(*columns, "loss", title=title)
    for rows, sides in sizes.items():
        for side, figures in sides.items():
            times = {name: f"{figures[name] / sides[PEER][name]:.2f}" for name in DIGITS}
            pairs = [text for name, digits in DIGITS.items() for text in (f"{figures[name]:,{digits}}", times[name])]
            table.add_row(f"{rows:,}", side, *pairs, f"{figures['loss']:.5f}")
    Console(width=120).print(table)


def run(options: argparse.Namespace, side: str, rows: int) -> dict[str, float]:
    """Measure one side in a process of its own; if it fails, as for lack of memory, CalledProcessError is raised."""
    values = {"side": side, "rows": rows, **{name: getattr(options, name) for name in SHARED}}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    import torch
    import torch.nn.functional as F

    (rows,) = options.rows
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    sides = [F.normalize(torch.randn(rows, options.width, device=options.device)) for _ in range(2)]
    keys = torch.arange(rows, device=options.device)
    keys[::10] = keys.roll(1)[::10]  # Every tenth passage is that of the question before.
    for vectors in sides:
        vectors.requires_grad_().grad = torch.zeros_like(vectors)
    work = (whole if options.side == PEER else tiled)(options.tile)
    work(*(vectors[:8] for vectors in sides), keys[:8]).backward()  # The libraries' own memory must not count.
    resting, taken, busy = memory(options.device, reset=True), [], []
    for _ in range(options.steps + 1):
        begin, begin_busy = time.perf_counter(), time.process_time()
        loss = work(*sides, keys)
        loss.backward()
        value = loss.item()
        if options.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
        busy.append(time.process_time() - begin_busy)
    peak = (memory(options.device) - resting) / 2**20
    seconds, cpu_seconds = (statistics.median(times[1:]) for times in (taken, busy))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak, "loss": value}


def whole(_: int) -> Callable[..., object]:
    import torch
    import torch.nn.functional as F

    def work(questions: torch.Tensor, passages: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        shared = (keys[:, None] == keys).fill_diagonal_(False)
        scores = (questions @ passages.T / TEMPERATURE).masked_fill(shared, -torch.inf)
        return F.cross_entropy(scores, torch.arange(len(keys), device=keys.device))

    return work


def tiled(tile: int) -> Callable[..., object]:
    from hbt_ray import info_nce

    return lambda questions, passages, keys: info_nce(questions, passages, keys, TEMPERATURE, (len(keys),), tile=tile)


def memory(device: str, reset: bool = False) -> int:
    """Peak memory so far, in bytes. On a GPU `reset` lowers the peak to the memory in use first."""
    if device == "cuda":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
