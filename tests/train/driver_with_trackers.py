"""A driver that logs steps 0 to 7 and the validation of step 5, then dies, as if by the kernel. For test_trackers."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_checked_json
from hbt_ray.train.trackers import TrackerLogger, TrackersConfig
from tests.train.test_trackers import SETTINGS, STEPS_BEFORE, VALIDATED, record, step_metrics, wandb_rows


def main() -> None:
    run, names = RunDir(Path(sys.argv[1])), sys.argv[2:]
    with TrackerLogger(run, TrackersConfig.make({"use": names}, "test"), SETTINGS, 0) as trackers:
        for step in range(STEPS_BEFORE):
            record(run, step_metrics(step))
            trackers.log_step(step_metrics(step))
            if step == 6:
                trackers.log_validations(VALIDATED)
        while not all_logged(run, len(names)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)


def all_logged(run: RunDir, num_trackers: int) -> bool:
    if not run.trackers.exists():
        return False
    positions = read_checked_json(run.trackers).values()
    done = [row for row in positions if row["step"] == STEPS_BEFORE - 1 and row["validated"]]
    # W&B's process writes in its own time.
    written = [row["step"] for path in run.root.glob("wandb/offline-run-*/*.wandb") for row in wandb_rows(path)]
    return len(done) == num_trackers and len(written) == STEPS_BEFORE + len(VALIDATED)


if __name__ == "__main__":
    main()
