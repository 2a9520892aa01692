"""Nodes over time on a cluster that grows: it begins as a head without CPUs, and work makes nodes come and go.

Ray's autoscaler runs on this machine, with raylets for nodes. (Ray's own `AutoscalingCluster` needs a file that its
wheel lacks, and ends by stopping every Ray process of the user; this one writes its own configuration, and ends what it
started.) Prints when nodes came and went, and draws it.

    python benchmarks/autoscaling.py [--nodes 2] [--idle 20] [--figure nodes.svg] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PORT = 6399
_LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
          "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
          "rsync_filter")  # fmt: skip
Counts = list[tuple[float, int]]
"""Seconds since the start, and the nodes besides the head from then on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--idle", type=float, default=20, help="seconds after which a node that has nothing to do goes")
    parser.add_argument("--items", type=int, default=50_000, help="to prepare, in each of four languages")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        _bring_token(folder)  # Read when Ray is imported.
        counts, marks = measured(folder, options)
    if options.figure:
        options.figure.write_text(figure(counts, marks), encoding="utf-8")
    if options.json:
        print(json.dumps({"nodes": counts, "marks": marks}))
        return
    for second, what in sorted([(second, f"{count} nodes") for second, count in counts] +
                               [(second, name) for name, second in marks.items()]):  # fmt: skip
        print(f"{second:7.1f} s  {what}")


def measured(folder: Path, options: argparse.Namespace) -> tuple[Counts, dict[str, float]]:
    """Prepare data and train on nodes that must be added first; wait after each until they are gone."""
    from prepare import LANGUAGES, generate

    from hbt_ray.cli.store import make_store
    from hbt_ray.cli.train import train_run
    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import StoreConfig
    from hbt_ray.ray_session import session

    columns = {"item_id": "item_id"}
    sources = [{"kind": "table", "name": "made", "path": generate(folder / f"{tag}.parquet", tag, options.items),
                "columns": columns} for tag in LANGUAGES]  # fmt: skip
    store = StoreConfig.make({"path": str(folder / "store"), "sources": sources}, "benchmark")
    begin, counts, marks, screen = time.monotonic(), Counts(), dict[str, float](), Screen(as_json=True)

    def marked(what: str, work: Callable[[], Any]) -> None:
        marks[f"{what} begins"] = round(time.monotonic() - begin, 1)
        work()
        marks[f"{what} ends"] = round(time.monotonic() - begin, 1)
        end = time.monotonic() + options.idle + 100
        while counts[-1][1] > 0 and time.monotonic() < end:
            time.sleep(0.5)

    with growing_cluster({"CPU": 2}, options.nodes, options.idle) as address:
        os.environ["RAY_ADDRESS"] = address
        with session(), _counting(counts, begin):
            marked("preparing", lambda: make_store(store, screen))
            marked("training", lambda: train_run(_config_of(folder, options), screen))
    return counts, marks


def _config_of(folder: Path, options: argparse.Namespace) -> Any:
    from hbt_ray.train.config import TrainConfig

    values = {
        "name": "grown",
        "store": str(folder / "store"),
        "storage_path": str(folder / "runs"),
        "model": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 1_000, "max_question_length": 16,
                  "max_passage_length": 16},
        "plan": {"batch_size": 32},
        "optimiser": {"steps": options.steps},
        "checkpoints": {"every": options.steps},
        "workers": {"count": options.nodes, "cpus": 2, "start_seconds": 120},
    }  # fmt: skip
    return TrainConfig.make(values, "benchmark")


@contextmanager
def _counting(counts: Counts, begin: float) -> Iterator[None]:
    """Record the number of nodes whenever it changes."""
    import ray

    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            alive = sum(node["Alive"] for node in ray.nodes()) - 1
            if not counts or counts[-1][1] != alive:
                counts.append((round(time.monotonic() - begin, 1), alive))
            over.wait(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bring_token(folder: Path) -> None:
    """Make the token that Ray 2.60 requires."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def figure(counts: Counts, marks: Mapping[str, float]) -> str:
    """An SVG: the number of nodes over time, with events as vertical lines."""
    import altair as alt

    from hbt_ray.report.charts import Axis, Canvas, Row, standalone_svg

    end, most = max(counts[-1][0], *marks.values()) * 1.05, max(count for _, count in counts)
    steps = [(0.0, 0), *counts, (end, counts[-1][1])]
    y = Axis("nodes besides the head", (0, most), ticks=tuple(range(most + 1)))
    canvas = Canvas(Axis("seconds", (0, end)), y, {"": "mono", "events": "cross"})
    names = [Row(second, most, name, "events") for name, second in marks.items()]
    layers = (
        *(canvas.rule("events", x=second) for second in marks.values()),
        canvas.line([Row(second, count) for second, count in steps], interpolate="step-after"),
        # Names alternate between two heights, so that neighbours do not overlap.
        *(canvas.labels(names[first::2], align="center", dx=0, dy=-10 - 14 * first) for first in (0, 1)),
    )
    return standalone_svg(alt.layer(*layers).properties(width=640, height=180))


@contextmanager
def growing_cluster(node: Mapping[str, float], most: int, idle_seconds: float = 10) -> Iterator[str]:
    """Start a head without CPUs, whose autoscaler adds up to `most` nodes with these resources; yield its address."""
    import ray
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    address = f"{ray.util.get_node_ip_address()}:{_PORT}"
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "autoscaling.json"
        config.write_text(json.dumps(_config(address, node, most, idle_seconds, FAKE_HEAD_NODE_ID)))
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--autoscaling-config={config}",
                   f"--port={_PORT}", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats",
                   "--num-cpus=0", "--object-store-memory=200000000"]  # fmt: skip
        environment = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        try:
            subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
            yield address
        finally:
            ray.shutdown()
            _end(folder)


def _config(address: str, node: Mapping[str, float], most: int, idle_seconds: float, head: str) -> dict[str, Any]:
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"object_store_memory": 200_000_000, **node},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        },
    }
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": head,
        "gcs_address": address,
    }
    return {
        "cluster_name": "growing",
        "max_workers": most,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "upscaling_speed": 1000,  # All nodes may start at the same time.
        "idle_timeout_minutes": idle_seconds / 60,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _LISTS},
    }


def _end(folder: str) -> None:
    """End all processes that have the cluster's folder on their command line."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if folder in path.read_text() and int(path.parent.name) != os.getpid():
                    os.kill(int(path.parent.name), kind)
            except OSError:  # It has ended meanwhile.
                continue
        time.sleep(1)


if __name__ == "__main__":
    main()
