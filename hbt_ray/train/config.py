"""The configuration of a training run: what `hbt train` reads."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from hbt_ray.config import Config
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.stream.stream import StreamConfig
from hbt_ray.model.config import FLASH, ModelConfig
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import Name
from hbt_ray.storage.location import Location, absolute
from hbt_ray.train.auxiliary_texts import TeacherConfig
from hbt_ray.train.loss.config import LossConfig
from hbt_ray.train.step.optimizer import OptimiserConfig
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.validation.config import ValidationConfig
from hbt_ray.train.workers import WorkersConfig


class CheckpointsConfig(Config):
    """When to save."""

    every: int = Field(100, gt=0)
    """Steps between checkpoints; the last step always makes one."""
    keep: int = Field(2, gt=0)
    """So many of the newest stay."""


class TrainConfig(Config):
    """A training run."""

    name: Name
    """Of the run: its folder under `storage_path`. The same name continues it."""
    store: Location
    """A folder or a URI, such as `s3://bucket/store`."""
    negatives: Path | None = None
    """Mined negatives of the store, a folder of `hbt mine` that all nodes see; plan.negatives says how many."""
    storage_path: Path = Path("runs")
    model: ModelConfig = ModelConfig()
    plan: PlanConfig = PlanConfig()
    loss: LossConfig = LossConfig()
    teacher: TeacherConfig | None = None
    """For `loss.imitation`."""
    optimiser: OptimiserConfig = OptimiserConfig()
    stream: StreamConfig = StreamConfig()
    workers: WorkersConfig = WorkersConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    validation: ValidationConfig = ValidationConfig()
    trackers: TrackersConfig = TrackersConfig()

    @model_validator(mode="after")
    def _checkpoints_to_validate(self) -> TrainConfig:
        every = self.validation.every
        if every and every % self.checkpoints.every:
            raise ValueError(
                f"validation.every={every} is no multiple of checkpoints.every={self.checkpoints.every}, and only "
                "checkpoints can be validated"
            )
        return self

    @model_validator(mode="after")
    def _flash_attention_in_bf16(self) -> TrainConfig:
        wanted = self.optimiser.precision
        if self.model.attention == FLASH and (not self.workers.gpu or wanted not in ("auto", "bf16")):
            raise ValueError(
                f"model.attention={FLASH} runs on a GPU in bf16 only; set workers.gpu=true and "
                "optimiser.precision=auto, or take sdpa"
            )
        return self

    @property
    def run(self) -> RunDir:
        return RunDir(self.storage_path.absolute() / self.name)

    def absolute(self) -> TrainConfig:
        """The same with paths that hold in any working directory of this file system."""
        cache, dev = self.stream.cache, self.validation.store
        if cache.folder:
            cache = cache.model_copy(update={"folder": cache.folder.absolute()})
        return self.model_copy(
            update={
                "store": absolute(self.store),
                "negatives": self.negatives and self.negatives.absolute(),
                "validation": self.validation.model_copy(update={"store": dev and absolute(dev)}),
                "storage_path": self.storage_path.absolute(),
                "stream": self.stream.model_copy(update={"cache": cache}),
            }
        )
