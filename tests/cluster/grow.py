"""Train on a cluster that begins as a head alone; prints the nodes over time as JSON. A process of its own."""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from hbt_ray.session import configure, session


def main() -> None:
    configure(local=False)
    world, begin = Path(sys.argv[1]), time.monotonic()
    token = world / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}  # Read when Ray is imported.
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    from hbt_ray.console import Screen
    from hbt_ray.workflow.training import train_run
    from tests.cluster.growing import growing_cluster
    from tests.worlds import small_run, small_store

    nodes: list[tuple[float, int]] = []
    marks: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            alive = sum(node["Alive"] for node in ray.nodes()) - 1
            if not nodes or nodes[-1][1] != alive:
                nodes.append((round(time.monotonic() - begin, 1), alive))

    def mark(name: str) -> None:
        marks[name] = round(time.monotonic() - begin, 1)

    with growing_cluster({"CPU": 2}, 2, idle_seconds=20) as address, ExitStack() as stack:
        os.environ["RAY_ADDRESS"] = address
        stack.enter_context(session())
        thread = threading.Thread(target=watch)
        thread.start()
        small_store(world / "store")
        mark("training asked for")
        settings = ("name=grown", "workers.count=2", "workers.cpus=2", "workers.start_seconds=120")
        train_run(small_run(world, *settings), Screen(as_json=True))
        mark("training ended")
        end = time.monotonic() + 90
        while nodes[-1][1] > 0 and time.monotonic() < end:
            time.sleep(0.5)
        if nodes[-1][1] > 0:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            print([(node.node_id, node.node_activity) for node in status.active_nodes], file=sys.stderr)
        mark("idle nodes gone")
        over.set()
        thread.join()
    print(json.dumps({"nodes": nodes, "marks": marks}))


if __name__ == "__main__":
    main()
