"""Kill the driver of a run with all that it started, then give the same command again. A process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hbt_ray.ray_session import configure

KILLED_AFTER = 17
"""Steps that the first driver hears of."""


def main() -> None:
    workspace = Path(sys.argv[1])
    if len(sys.argv) > 2:
        drive(workspace, doomed=True)
    with subprocess.Popen([sys.executable, "-m", __spec__.name, str(workspace), "doomed"]) as driver:
        code = driver.wait()
    if code != -signal.SIGKILL:
        sys.exit(f"the first driver ended with {code}")
    drive(workspace, doomed=False)


def drive(workspace: Path, *, doomed: bool) -> None:
    configure(local=True)
    import ray

    from hbt_ray.train.driver.trainer import fit
    from hbt_ray.train.step.train_step import StepMetrics
    from tests.train.faults import faults_run

    def watch(metrics: StepMetrics) -> None:
        if doomed and metrics.step >= KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sockets)
        fit(faults_run(workspace, "name=driver_killed"), watch)
        ray.shutdown()


if __name__ == "__main__":
    main()
