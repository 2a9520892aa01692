"""TensorBoard: event files in the run's folder, for `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hbt_ray.markdown import inline
from hbt_ray.run_dir import RunDir
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.resume_state import TrackerPosition
from hbt_ray.train.trackers.tracker import TrackerRow


class TensorBoard:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: TrackerPosition
    ) -> None:
        from tensorboardX import SummaryWriter

        # A reader hides what earlier files have from that step on. They may hold steps beyond the checkpoint that
        # training goes on from, made with other settings.
        mark.back_to(start - 1)
        purge = mark.step + 1
        self._writer = SummaryWriter(str(run.root / "tensorboard"), purge_step=purge, filename_suffix=f".{purge}")
        rows = "".join(f"|{name}|{inline(str(value))}|\n" for name, value in settings.items())
        self._writer.add_text("configuration", f"|key|value|\n|---|---|\n{rows}", purge)

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            for name, value in row.values.items():
                self._writer.add_scalar(name, value, row.step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()
