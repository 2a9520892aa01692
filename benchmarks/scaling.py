"""Estimate of how prepare, training and evaluation scale to many nodes, from pieces measured on two cores.

Measured pieces name their script and can be replaced (`--rows-per-core …`); all others are assumptions, named so in
the output. Nothing here was run on such a cluster: the estimate shows where the bounds lie, and which comes first.

    python benchmarks/scaling.py [--items 40000000] [--languages 9] [--batch 16384] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table

NODES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Pieces:
    """Inputs of the estimate, per second unless noted; each comment names the source of its number."""

    items: float = 40e6  # The paper's largest set: mMARCO has 39.8 million in each language.
    languages: float = 9  # The paper takes seven of its languages.
    text_bytes: float = 420  # Assumed: a question and a passage in UTF-8, of one language.
    rows_per_core: float = 26_700  # Measured: benchmarks/prepare.py, 4 M rows in 75 s on two cores.
    stream_rows_per_core: float = 17_500  # Measured: benchmarks/stream.py, 35,000 tokenised rows/s on two cores.
    row_tokens: float = 32 + 128  # Assumed: a question and a passage, as the loss sees them.
    cores: float = 96  # Assumed: of a node with eight GPUs.
    data_cores: float = 32  # Assumed: of these, for data, beside training.
    gpus: float = 8  # A node.
    batch: float = 16_384  # Pairs of a global batch.
    width: float = 768  # XLM-R base.
    layers_parameters: float = 86e6  # XLM-R base without its embeddings; these cost no multiplications.
    parameters: float = 278e6  # XLM-R base with them; their gradients move too.
    gpu_flops: float = 989e12  # H100's data sheet, bf16, dense.
    utilisation: float = 0.35  # Assumed: of that, in an encoder of this size with texts of this length. Owed: measured.
    passes: float = 4.0  # Forward, backward (2), and a forward again where gradients are cached, in forwards.
    node_bytes: float = 400e9 / 8 * 0.8  # Assumed: 400 Gbit/s a node, four fifths of it.
    link_bytes: float = 450e9 * 0.8  # H100's NVLink, one direction, four fifths of it.
    latency: float = 20e-6  # Assumed: of a collective, a doubling of nodes.
    disk_bytes: float = 2e9  # Assumed: of the shared file system, a node; 40e9 in all.
    shared_disk_bytes: float = 40e9  # Assumed: of the shared file system in all.
    documents: float = 8.8e6  # MS MARCO's passages, in each language.
    queries: float = 6_980  # Its dev questions, in each language.
    dollars: float = 55.0  # Assumed: a node an hour, on demand; half of it or less on spot.


@dataclass(frozen=True)
class Estimate:
    nodes: int
    prepare_minutes: float
    prepare_bound: str
    shuffled_gb: float
    step_ms: float
    compute_ms: float
    reduce_ms: float
    gather_ms: float
    data_ms: float
    steps_per_second: float
    pairs_per_second: float
    efficiency: float
    gb_moved_a_step: float
    bound: str
    epoch_hours: float
    epoch_dollars: float
    encode_minutes: float
    search_minutes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Pieces):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    pieces = Pieces(**options)
    estimates = [estimate(pieces, nodes) for nodes in NODES]
    one = estimates[0].pairs_per_second
    rows = [vars(each) | {"efficiency": each.pairs_per_second / one / each.nodes} for each in estimates]
    if as_json:
        print(json.dumps({"pieces": vars(pieces), "estimates": rows}))
    else:
        show(pieces, rows)


def estimate(p: Pieces, nodes: int) -> Estimate:
    """Time of each part by its bound. Parts of a step are assumed not to overlap, except for data."""
    ranks = nodes * p.gpus
    rows = p.items * p.languages
    read = rows * p.text_bytes / min(nodes * p.disk_bytes, p.shared_disk_bytes)
    grouped = rows / (p.rows_per_core * p.cores * nodes)
    shuffled = rows * p.text_bytes * (1 - 1 / nodes)  # All to all, once, to group the rows of an item.
    moved = shuffled / (nodes * p.node_bytes)

    flops = p.batch * p.row_tokens * 2 * p.layers_parameters * p.passes
    similarities = 3 * 2 * p.batch**2 * p.width  # Scores once, and twice in the backward pass; in tiles.
    compute = (flops + similarities) / (ranks * p.gpu_flops * p.utilisation)
    doublings = math.log2(nodes)
    gradients = 4 * p.parameters
    # A ring all-reduce moves the gradients twice, over NVLink inside a node and over the network between nodes.
    reduce = 2 * gradients / p.link_bytes
    reduce += 2 * gradients * (1 - 1 / nodes) / p.node_bytes + 2 * p.latency * doublings
    vectors = 2 * p.batch * p.width * 4  # Both sides, gathered, and their gradients scattered.
    gather = 2 * (vectors / p.link_bytes + vectors * (1 - 1 / nodes) / p.node_bytes + p.latency * doublings)
    data = p.batch / (p.stream_rows_per_core * p.data_cores * nodes)
    step = max(compute + reduce + gather, data)
    bound = "data" if data > compute + reduce + gather else max(
        (compute, "compute"), (reduce, "gradients' all-reduce"), (gather, "vectors' all-gather")
    )[1]  # fmt: skip
    hours = p.items / p.batch * step / 3600

    # Forward only, 128 tokens a document. Exact search is assumed to reach 5 % of the peak.
    encode = p.documents * p.languages * 128 * 2 * p.layers_parameters / (ranks * p.gpu_flops * p.utilisation)
    search = 2 * p.queries * p.languages * p.documents * p.languages * p.width / (ranks * p.gpu_flops * 0.05)
    return Estimate(
        nodes, (read + grouped + moved) / 60,
        max((read, "reading"), (grouped, "cores"), (moved, "network"))[1], shuffled / 1e9,
        1e3 * step, 1e3 * compute, 1e3 * reduce, 1e3 * gather, 1e3 * data, 1 / step, p.batch / step, 0.0,
        (nodes * 2 * gradients + nodes * 2 * vectors) * (nodes > 1) / 1e9, bound, hours, hours * nodes * p.dollars,
        encode / 60, search / 60,
    )  # fmt: skip


def show(pieces: Pieces, rows: list[dict[str, object]]) -> None:
    columns = {
        "nodes": "nodes", "prepare_minutes": "prepare, min", "prepare_bound": "by", "step_ms": "step, ms",
        "compute_ms": "compute", "reduce_ms": "all-reduce", "gather_ms": "gather", "data_ms": "data",
        "steps_per_second": "steps/s", "efficiency": "efficiency", "gb_moved_a_step": "GB moved", "bound": "most by",
        "epoch_hours": "epoch, h", "epoch_dollars": "epoch, $", "encode_minutes": "encode, min",
        "search_minutes": "search, min",
    }  # fmt: skip
    table = Table(*columns.values(), box=None)
    for row in rows:
        cells = (row[name] for name in columns)
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=180).print(table)
    print(f"\nA batch of {pieces.batch:,.0f} pairs; an epoch is every item once; eight GPUs a node. From:")
    for line in source_lines():
        print(f"  {line}")


def source_lines() -> list[str]:
    """The pieces as this file states them, each with where it is from."""
    from pathlib import Path

    text = Path(__file__).read_text(encoding="utf-8")
    body = text[text.index("class Pieces") : text.index("@dataclass(frozen=True)\nclass Estimate")]
    return [line.strip() for line in body.splitlines() if ": float = " in line]


if __name__ == "__main__":
    main()
