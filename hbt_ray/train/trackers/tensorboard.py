"""TensorBoard: event files in the run's folder, for `tensorboard --logdir runs`."""

from __future__ import annotations

from typing import Any

from hbt_ray.run import Run
from hbt_ray.train.trackers.config import TrackersConfig


class TensorBoard:
    """See `Tracker`."""

    def __init__(self, run: Run, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        from tensorboardX import SummaryWriter

        # What a run that was killed wrote beyond its checkpoint is hidden by the new file.
        self._writer = SummaryWriter(
            str(run.root / "tensorboard"), purge_step=start or None, filename_suffix=f".{start}"
        )
        if not start:
            rows = "".join(f"|{name}|{value}|\n" for name, value in settings.items())
            self._writer.add_text("configuration", f"|key|value|\n|---|---|\n{rows}", 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
