"""Two nodes on one machine are examined, then one of them hangs, and they are examined again. A process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.nodes import head


def main() -> None:
    with head(num_cpus=1) as cluster:
        from hbt_ray.doctor.run import alive_nodes, examine

        def examined(seconds: float) -> dict[str, Any]:
            begin = time.monotonic()
            seen = examine(Path(sys.argv[1]) / "runs", seconds=seconds)
            return {"findings": [asdict(each) for each in seen.findings], "seconds": time.monotonic() - begin}

        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        whole = examined(40)
        (name,) = [name for name, each in alive_nodes().items() if each["NodeID"] == node.node_id]
        raylet = node.all_processes["raylet"][0].process.pid
        os.kill(raylet, signal.SIGSTOP)
        try:
            hung = examined(20)
        finally:
            os.kill(raylet, signal.SIGCONT)
    print(json.dumps([whole, {**hung, "hung": name}]))


if __name__ == "__main__":
    main()
