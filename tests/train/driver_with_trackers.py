"""A driver that logs steps 0 to 7 and the validation of step 5, then dies, as if by the kernel. For test_trackers."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_checked_json
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.logger import TrackerLogger
from tests.train.test_trackers import SETTINGS, STEPS_BEFORE, VALIDATED, outcome, recorded, wandb_rows


def main() -> None:
    run, names = RunDir(Path(sys.argv[1])), sys.argv[2:]
    log = TrackerLogger(run, TrackersConfig.make({"use": names}, "test"), SETTINGS, 0)
    for step in range(STEPS_BEFORE):
        recorded(run, outcome(step))
        log.log_step(outcome(step))
        if step == 6:
            log.log_validations(VALIDATED)
    while not all_are_there(run, len(names)):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


def all_are_there(run: RunDir, num_trackers: int) -> bool:
    if not run.trackers.exists():
        return False
    marks = read_checked_json(run.trackers).values()
    done = [mark for mark in marks if mark["step"] == STEPS_BEFORE - 1 and mark["validated"]]
    # W&B's process writes in its own time.
    written = [row["step"] for path in run.root.glob("wandb/offline-run-*/*.wandb") for row in wandb_rows(path)]
    return len(done) == num_trackers and len(written) == STEPS_BEFORE + len(VALIDATED)


if __name__ == "__main__":
    main()
