"""`hbt prepare` beside a plain pandas script: the same rows grouped into the same items, on the same cores.

Generated: items in four languages, one Parquet file a language, each in an order of its own. Ours checks every row,
groups, looks for duplicates, shuffles and writes shards with checksums; the peer only reads, groups by item and writes
one Arrow file. Memory is the largest resident set of any one process, from start to end. Then ours is killed with
SIGKILL in the middle and run again: the store must be complete and equal to the undisturbed one.

    python benchmarks/prepare.py [--json] [--items 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

LANGUAGES = ("ar", "de", "en", "zh")
ROW_GROUP = 50_000

PEER = """
import sys
import pandas as pd, pyarrow as pa
rows = pd.concat([pd.read_parquet(path) for path in sys.argv[2:]])
items = rows.pivot(index="item_id", columns="language", values=["question", "passage"])
items.columns = [f"{side}.{language}" for side, language in items.columns]
table = pa.Table.from_pandas(items.sample(frac=1, random_state=0))
with pa.OSFile(sys.argv[1], "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
    writer.write_table(table)
print(len(items))
"""


class Watched(NamedTuple):
    seconds: float
    peak_bytes: int
    """Peak resident memory of the largest process."""
    num_processes: int
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [generate(folder / f"{language}.parquet", language, options.items) for language in LANGUAGES]
        peer = watched([sys.executable, "-c", PEER, str(folder / "peer.arrow"), *files])
        ours = watched(command(folder, "ours", files))
        half_grouped = partial(progress_beyond, folder / "killed", 0.5)
        killed = watched(command(folder, "killed", files), half_grouped)
        began = progress(folder / "killed")
        again = watched(command(folder, "killed", files))
        equal = checksums(folder / "ours") == checksums(folder / "killed")
        told = json.loads(ours.output)
    num_rows = options.items * len(LANGUAGES)
    result = {
        "rows": num_rows,
        "ours": {"rows_per_second": num_rows / ours.seconds, "peak_bytes": ours.peak_bytes},
        "peer": {"rows_per_second": num_rows / peer.seconds, "peak_bytes": peer.peak_bytes},
        "ratio": peer.seconds / ours.seconds,
        "kept": told["num_kept"],
        "killed": {
            "after_seconds": killed.seconds,
            "share_done": began,
            "again_seconds": again.seconds,
            "equal": equal,
        },
        "peak_bytes_of_all": max(run.peak_bytes for run in (ours, killed, again)),
    }
    if options.json:
        print(json.dumps(result))
    else:
        show(result, ours.num_processes)
    if not equal or told["num_kept"] != num_rows:
        sys.exit("the store is not complete and equal")


def command(folder: Path, name: str, files: list[str]) -> list[str]:
    recipe = folder / f"{name}.yaml"
    columns = {"item_id": "item_id", "language": "language", "question": "question", "passage": "passage"}
    sources = [{"kind": "table", "name": "made", "path": path, "columns": columns} for path in files]
    recipe.write_text(yaml.safe_dump({"path": str(folder / name), "sources": sources}))
    return [sys.executable, "-m", "hbt_ray", "prepare", str(recipe), "--json"]


def generate(path: Path, language: str, num_items: int) -> str:
    """Rows of one language, some 40 and 240 characters long, in an order of their own."""
    rng = np.random.default_rng(LANGUAGES.index(language))
    words = np.array([f"{language}{number:x}" for number in range(5_000)])
    order = rng.permutation(num_items)
    schema = pa.schema([(name, pa.string()) for name in ("item_id", "language", "question", "passage")])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_items, ROW_GROUP):
            ids = order[start : start + ROW_GROUP]
            drawn = words[rng.integers(0, len(words), (len(ids), 48))].tolist()
            columns = {
                "item_id": [f"item-{number}" for number in ids],
                "language": [language] * len(ids),
                "question": [f"{' '.join(row[:8])}?" for row in drawn],
                "passage": [" ".join(row[8:]) for row in drawn],
            }
            writer.write_table(pa.table(columns, schema=schema))
    return str(path)


def watched(argv: list[str], kill_when: Callable[[], bool] = lambda: False) -> Watched:
    """Run a command to its end, or kill it with its descendants; the memory of all of them is polled."""
    begin = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        found = family(process.pid)
        for pid in found:
            peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
        if kill_when():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return Watched(time.perf_counter() - begin, max(peaks.values()), len(peaks), "")
        time.sleep(0.2)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"{argv[:4]} ended with {process.returncode}")
    return Watched(time.perf_counter() - begin, max(peaks.values()), len(peaks), output)


def family(ancestor: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name of the process ends at the last `)` and may hold spaces.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [ancestor]
    for pid in found:  # Grows while it is read, by the children of each process.
        found += children.get(pid, [])
    return found


def peak_memory(pid: int) -> int:
    """The largest resident set that a process had so far, in bytes."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return 0


def progress_beyond(store: Path, share: float) -> bool:
    return progress(store) > share


def progress(store: Path) -> float:
    """Share of the buckets that were grouped."""
    read = list(store.glob(".prepare/read/*/*/*.arrow"))
    if not read:
        return 0.0
    grouped = len(list(store.glob(".prepare/*/group/?????.json")))
    return grouped / pa.ipc.open_file(read[0]).num_record_batches  # One record batch for each bucket.


def checksums(store: Path) -> dict[str, str]:
    files = sorted(file for file in store.rglob("*") if file.is_file())
    return {str(file.relative_to(store)): hashlib.file_digest(file.open("rb"), "sha256").hexdigest() for file in files}


def show(result: dict, num_processes: int) -> None:  # type: ignore[type-arg]
    table = Table("side", "rows/s", "largest process GiB")
    for name, side in (("hbt prepare", result["ours"]), ("pandas script", result["peer"])):
        table.add_row(name, f"{side['rows_per_second']:,.0f}", f"{side['peak_bytes'] / 2**30:.2f}")
    console = Console()
    console.print(table)
    console.print(f"{result['rows']:,} rows, {num_processes} processes; rows/s, ours / peer: {result['ratio']:.2f}")
    killed = result["killed"]
    console.print(
        f"killed after {killed['after_seconds']:.0f} s with {killed['share_done']:.0%} of the buckets grouped; "
        f"run again: {killed['again_seconds']:.0f} s, complete and equal: {killed['equal']}; "
        f"largest process of all runs {result['peak_bytes_of_all'] / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
