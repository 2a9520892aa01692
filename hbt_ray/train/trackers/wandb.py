"""Weights & Biases; WANDB_MODE=offline writes files into the run's folder, to be sent later by `wandb sync`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from hbt_ray.run_dir import RunDir
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.resume_state import TrackerPosition
from hbt_ray.train.trackers.tracker import TrackerRow

_FLUSH_SECONDS = "x_transaction_log_flush_interval"
"""A setting that older clients lack."""


class WandB:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: TrackerPosition
    ) -> None:
        import wandb

        mark.id = mark.id or uuid4().hex[:8]
        # W&B's own process dies with the driver, and with it what it has not written: by default that of 15 seconds.
        prompt = {name: 1.0 for name in (_FLUSH_SECONDS,) if name in wandb.Settings.model_fields}
        self._run = wandb.init(
            project=config.project,
            name=run.name,
            id=mark.id,
            resume="allow",
            dir=str(run.root),
            config=settings,
            settings=wandb.Settings(silent=True, console="off", **prompt),
        )
        # A step of our own: theirs must rise, and would drop every validation, which ends later than it began.
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            self._run.log({"step": row.step, **row.values})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
