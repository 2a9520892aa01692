"""The stream beside its alternatives: the same rows, the same tokenizer, the same cores, in one run.

- hbt_ray stream: Ray Data tasks, as many at once as there are cores.
- torch DataLoader: our own plan and loader in as many worker processes, so all that differs is how batches travel.
- Ray Data mix: one dataset a language and one of cross-lingual rows, put together by `Dataset.mix`.
- sentence-transformers: the DataLoader that its trainer builds of such datasets, as many worker processes again.

No side's tokenizer runs threads in a worker (they cost every side more than they gain), and Ray's workers run at the
priority of the others. After the first batch and a warm-up the batches are taken as fast as they come: rows per second,
and the CPU time of all processes for a thousand rows, which a busy machine distorts less. Then a training step of 50 ms
is simulated: the stall is the share of time that it waits. A side that prepares much before its first batch (`mix`) is
fast afterwards, so there is also the rate from the start, start-up of processes included.

    python benchmarks/stream.py [--json] [--steps 600] [--repeat 1] [--memory]

`--memory` runs our side alone over 10,000 steps and prints what the processes hold after 1,000 and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Read by worker processes of all kinds.
# Ray's default of 15 would lose every core to the peer's processes. Ray spells it so.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
os.environ["RAY_DATA_USE_DATASOURCE_V2"] = "0"  # For `mix`, whose start takes far longer with the new reader.

from rich.console import Console
from rich.table import Table
from stream_peers import CORES, ray_mix, sentence_transformers_loader, tables, torch_loader

from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.loader import LoaderConfig
from hbt_ray.data.stream.stream import StreamConfig, stream
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.ray_session import session

BATCH, STEP_SECONDS, STALL_STEPS, WARM_STEPS = 256, 0.05, 100, 100
OURS = "hbt_ray stream"
MEMORY_STEPS = (1_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=600, help="steps at full speed")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the median counts")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, session():
        loader, encoder = prepared(Path(folder))
        if options.memory:
            show_memory(memory(loader), options.json)
        else:
            show_speed(speed(loader, encoder, Path(folder), options.steps, options.repeat), options.json)


def prepared(folder: Path) -> tuple[LoaderConfig, Any]:
    """worldfacts in a store, and an encoder whose tokenizer was trained on it."""
    source = {"kind": "worldfacts"}
    prepare(StoreConfig.make({"path": str(folder / "store"), "sources": [source]}, "benchmark"))
    store = Store(folder / "store")
    config = ModelConfig(vocabulary=12_000, max_question_length=48, max_passage_length=64)
    encoder = build_encoder(config, store.sample_texts(store.manifest.languages))
    how = tokenising_config(encoder, config)
    return LoaderConfig(str(folder / "store"), PlanConfig(batch_size=BATCH), how), encoder


def speed(loader: LoaderConfig, encoder: Any, folder: Path, num_steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds, in which the sides take turns."""
    total = WARM_STEPS + num_steps + STALL_STEPS + 1
    # The peers' batches come from tables, which end in less than a batch; a few more steps make up for it.
    sources = tables(loader, total + 50)
    sides: dict[str, Callable[[], Iterator[int]]] = {
        OURS: lambda: ours(loader, total),
        "torch DataLoader": lambda: torch_loader(loader, total),
        "Ray Data mix": lambda: ray_mix(loader, sources, folder),
        "sentence-transformers": lambda: sentence_transformers_loader(loader, sources, encoder),
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, make in sides.items():
            measured[name].append(measure(make, num_steps))
    for results in measured.values():
        for result, reference in zip(results, measured[OURS], strict=True):
            result["ratio"] = reference["rows_per_second"] / result["rows_per_second"]
            result["ratio_from_start"] = reference["rows_per_second_from_start"] / result["rows_per_second_from_start"]
            result["cpu_ratio"] = reference["cpu_seconds_per_1000_rows"] / result["cpu_seconds_per_1000_rows"]
    return {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        | {"ratio_least": min(r["ratio"] for r in results), "ratio_most": max(r["ratio"] for r in results)}
        for name, results in measured.items()
    }


def ours(loader: LoaderConfig, num_steps: int) -> Iterator[int]:
    for batch in stream(loader, range(num_steps), 0, 1, StreamConfig(tasks_per_worker=CORES)):
        yield len(batch.items)


def measure(make: Callable[[], Iterator[int]], num_steps: int) -> dict[str, float]:
    begin = time.perf_counter()
    batches = make()
    next(batches)
    first = time.perf_counter()
    for _ in range(WARM_STEPS):
        next(batches)
    warm, cpu = time.perf_counter(), cpu_seconds()
    num_rows = sum(next(batches) for _ in range(num_steps))
    cpu, end = cpu_seconds() - cpu, time.perf_counter()
    so_far = num_rows * (1 + WARM_STEPS / num_steps)  # With the rows of the warm-up.
    waited = 0.0
    for _ in range(STALL_STEPS):
        time.sleep(STEP_SECONDS)
        asked = time.perf_counter()
        if next(batches, None) is None:
            raise RuntimeError("a side has too few batches")
        waited += time.perf_counter() - asked
    for _ in batches:  # To the end, so that the side ends its processes.
        pass
    return {
        "first_seconds": first - begin,
        "rows_per_second": num_rows / (end - warm),
        "rows_per_second_from_start": so_far / (end - begin),
        "cpu_seconds_per_1000_rows": 1e3 * cpu / num_rows,
        "stall_share": waited / (waited + STEP_SECONDS * STALL_STEPS),
    }


def show_speed(sides: dict[str, dict[str, float]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(sides))
        return
    columns = ("first s", "rows/s", "from start", "CPU ms a 1,000", "stall", "rows/s ratio", "from start", "CPU ratio")
    table = Table("side", *columns, title=f"{CORES} cores, batches of {BATCH}; ratios are ours / this")
    for name, side in sides.items():
        table.add_row(
            name,
            f"{side['first_seconds']:.1f}",
            f"{side['rows_per_second']:,.0f}",
            f"{side['rows_per_second_from_start']:,.0f}",
            f"{1e3 * side['cpu_seconds_per_1000_rows']:.0f}",
            f"{side['stall_share']:.2%}",
            f"{side['ratio']:.2f} ({side['ratio_least']:.2f}…{side['ratio_most']:.2f})",
            f"{side['ratio_from_start']:.2f}",
            f"{side['cpu_ratio']:.2f}",
        )
    Console(width=120).print(table)


def memory(loader: LoaderConfig) -> dict[str, dict[str, float]]:
    """MiB of the consumer and of Ray's workers, by steps done."""
    small = StreamConfig(tasks_per_worker=CORES, rows_per_task=16 * BATCH, prefetch_mib=16)
    held = {}
    for number, _ in enumerate(stream(loader, range(MEMORY_STEPS[-1]), 0, 1, small), start=1):
        if number in MEMORY_STEPS:
            workers = [pid for pid in processes() if pid != os.getpid() and command(pid).startswith("ray::")]
            held[str(number)] = {"consumer": anonymous_mib(os.getpid()), "workers": sum(map(anonymous_mib, workers))}
    return held


def show_memory(held: dict[str, dict[str, float]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(held))
        return
    table = Table("steps", "consumer MiB", "Ray workers MiB", title="Memory held, without the object store")
    for steps, sizes in held.items():
        table.add_row(f"{int(steps):,}", f"{sizes['consumer']:.0f}", f"{sizes['workers']:.0f}")
    Console().print(table)


def processes() -> dict[int, float]:
    """This process and its descendants, with the CPU seconds of each."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        # Fields after the name: 1 is the parent, 11 and 12 are user and system time in ticks.
        parents[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ours(pid: int) -> bool:
        while pid not in (os.getpid(), 0):
            pid = parents.get(pid, 0)
        return pid != 0

    return {pid: used for pid, used in seconds.items() if is_ours(pid)}


def cpu_seconds() -> float:
    return sum(processes().values())


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def anonymous_mib(pid: int) -> float:
    """Anonymous memory of a process: pages of the object store are shared by all that read them."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


if __name__ == "__main__":
    main()
