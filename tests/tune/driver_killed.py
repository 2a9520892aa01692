"""Kill the driver of a search with all that it started, in its second trial; then give the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hbt_ray.ray_session import configure


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

    from tests.tune.sweep import prepared, searched

    search = prepared(workspace, "driver_killed", concurrent=1)

    def die_in_the_second() -> None:
        while not (len(trials := search.state.trials) == 2 and trials[1].step >= 10):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    if doomed:
        threading.Thread(target=die_in_the_second, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sockets)
        searched(search)
        ray.shutdown()


if __name__ == "__main__":
    main()
