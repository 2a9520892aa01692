"""Weights & Biases; WANDB_MODE=offline writes files into the run's folder, to be sent later."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hbt_ray.run import Run
from hbt_ray.train.trackers.config import TrackersConfig


class WandB:
    """See `Tracker`."""

    def __init__(self, run: Run, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        import wandb

        kept = run.root / "wandb.id"
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else uuid4().hex[:8]
        kept.write_text(known, encoding="utf-8")
        self._run = wandb.init(
            project=config.project,
            name=run.name,
            id=known,
            resume="allow",
            dir=str(run.root),
            config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
