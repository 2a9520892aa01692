"""Train where the workers hold every CPU of the cluster. A process of its own, as a process has one Ray session."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from hbt_ray.ray_session import configure
from tests.worlds import small_run, small_store


def main() -> None:
    configure(local=True)
    import ray

    from hbt_ray.train.driver.trainer import fit

    folder = Path(sys.argv[1])
    small_store(folder / "store")
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp") as sockets:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sockets)
        steps: list[int] = []
        fit(small_run(folder, "optimiser.steps=12"), lambda metrics: steps.append(metrics.step))
        ray.shutdown()
    print(*steps)


if __name__ == "__main__":
    main()
