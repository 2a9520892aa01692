"""The configuration of a training run: the settings of `hbt train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, model_validator

from hbt_ray.config import Config
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.stream.stream import StreamConfig
from hbt_ray.model.config import FLASH, ModelConfig
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import Name, as_path
from hbt_ray.storage.location import Location, absolute
from hbt_ray.train.loss.objective import LossConfig
from hbt_ray.train.loss_requirements import TeacherConfig
from hbt_ray.train.step.optimizer import OptimiserConfig
from hbt_ray.train.trackers import TrackersConfig
from hbt_ray.train.validation.config import ValidationConfig

Count = Annotated[int, Field(gt=0)]


class WorkersConfig(Config):
    """The training processes: how many, what each reserves, and how failures are handled."""

    count: Count | tuple[Count, Count] = 1
    """Number of ranks; each takes its slice of every global batch. Two numbers, such as [2, 8], are the least and the
    most of an elastic run, which takes as many as the cluster can hold. The global batches are the same for any number.
    """
    cpus: float = Field(1, gt=0)
    """Logical CPUs that each worker reserves, and threads that it computes with. Data tasks use CPUs beyond these, if
    the cluster has any."""
    gpu: bool = False
    """Reserve one GPU for each worker. By default training is on CPUs, which every machine has."""
    max_failures: int = Field(3, ge=-1)
    """Restarts from the latest checkpoint after a worker died; -1 for no limit. 3 outlasts single crashes and ends a
    run that crashes at every try. Preempted nodes do not count."""
    max_preemptions: int = Field(-1, ge=-1)
    """Restarts after preemptions: nodes that announced their end, such as spot instances. -1, the default, is no limit,
    since a preemption loses no step."""
    preemption_grace_seconds: float = Field(0, ge=0)
    """Seconds after the announced end that the remaining workers may still write a checkpoint. By default they are
    restarted at once."""
    resize_seconds: float = Field(60, gt=0)
    """Seconds between two checks whether an elastic run can add workers. Adding workers is a restart from a
    checkpoint, so a shorter time costs more than it gains."""
    start_seconds: float = Field(60, gt=0)
    """Longest wait in seconds for the workers' resources and for their start, each time they are started."""
    deadline_seconds: float = Field(1_800, gt=0)
    """Seconds after which a rank that is still in the same step counts as stuck, and the workers are restarted. The
    time includes the wait for the batch; half an hour is far above any healthy step."""

    @model_validator(mode="after")
    def _require_order(self) -> WorkersConfig:
        if self.min_count > self.max_count:
            raise ValueError(
                f"count=[{self.min_count}, {self.max_count}] is the least and the most; write the smaller one first"
            )
        return self

    @property
    def min_count(self) -> int:
        return self.count[0] if isinstance(self.count, tuple) else self.count

    @property
    def max_count(self) -> int:
        return self.count[1] if isinstance(self.count, tuple) else self.count

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}

    def missing_resources(
        self, available: Mapping[str, float], extra: Mapping[str, float] = MappingProxyType({})
    ) -> dict[str, float]:
        """Resource → amount that the fewest workers need, for those of which less is available."""
        needed = {name: self.min_count * amount + extra.get(name, 0) for name, amount in self.resources.items()}
        return {name: amount for name, amount in needed.items() if available.get(name, 0) < amount}

    def __str__(self) -> str:
        number = f"{self.min_count} to {self.max_count}" if self.min_count < self.max_count else str(self.max_count)
        return f"{number} worker{'s' * (self.max_count > 1)}"


class CheckpointsConfig(Config):
    """When checkpoints are made, and how many are kept."""

    every: int = Field(100, gt=0)
    """Steps between checkpoints; the last step always makes one. A failure costs at most this many steps."""
    keep: int = Field(2, gt=0)
    """Number of newest checkpoints that are kept: with 2, one is left if the newest is damaged. The best one and those
    that wait for validation are kept too."""


class TrainConfig(Config):
    """A training run."""

    name: Name
    """Name of the run, and of its folder under `storage_path`. The same name continues the run."""
    store: Location
    """Training data: a store of `hbt prepare`, as a folder or a URI such as `s3://bucket/store`."""
    negatives: Path | None = None
    """Mined negatives of the store: a folder of `hbt mine` that all nodes see. plan.negatives is their number per row.
    By default there are none."""
    storage_path: Location = "runs"
    """Folder for runs that all nodes see, or a URI such as `s3://bucket/runs`, `gs://bucket/runs` or
    `az://account@container/runs`."""
    model: ModelConfig = ModelConfig()
    """The encoder."""
    plan: PlanConfig = PlanConfig()
    """The sequence of batches."""
    loss: LossConfig = LossConfig()
    """The loss and its terms."""
    teacher: TeacherConfig | None = None
    """Frozen encoder that the student imitates; for `loss.imitation`. By default there is none."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """AdamW, its learning rate, and micro-batches."""
    stream: StreamConfig = StreamConfig()
    """Preparation and prefetching of batches."""
    workers: WorkersConfig = WorkersConfig()
    """The training processes."""
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    """When checkpoints are made, and how many are kept."""
    validation: ValidationConfig = ValidationConfig()
    """Evaluation of checkpoints on a dev store during training."""
    trackers: TrackersConfig = TrackersConfig()
    """Experiment trackers that show the curves."""

    @model_validator(mode="after")
    def _require_checkpoints_to_validate(self) -> TrainConfig:
        every = self.validation.every
        if every and every % self.checkpoints.every:
            raise ValueError(
                f"validation.every={every} is not a multiple of checkpoints.every={self.checkpoints.every}, and only "
                "checkpoints can be validated"
            )
        return self

    # The flash kernels exist only for 16-bit types.
    @model_validator(mode="after")
    def _require_bf16_for_flash_attention(self) -> TrainConfig:
        precision = self.optimiser.precision
        if self.model.attention == FLASH and (not self.workers.gpu or precision not in ("auto", "bf16")):
            raise ValueError(
                f"model.attention={FLASH} runs only on a GPU and in bf16; set workers.gpu=true and "
                "optimiser.precision=auto, or model.attention=sdpa"
            )
        return self

    @classmethod
    def of_run(cls, run: RunDir) -> TrainConfig:
        """The configuration of a run, at the place where it is read: it may have been moved since it was trained."""
        return cls.load(run.config).model_copy(update={"storage_path": str(run.root.parent), "name": run.name})

    @property
    def run(self) -> RunDir:
        return RunDir.at(as_path(self.storage_path) / self.name)

    def absolute(self) -> TrainConfig:
        """A copy with absolute paths, for processes with another working directory."""
        cache, dev_store = self.stream.cache, self.validation.store
        if cache.folder:
            cache = cache.model_copy(update={"folder": cache.folder.absolute()})
        return self.model_copy(
            update={
                "store": absolute(self.store),
                "negatives": self.negatives and self.negatives.absolute(),
                "validation": self.validation.model_copy(update={"store": dev_store and absolute(dev_store)}),
                "storage_path": absolute(self.storage_path),
                "stream": self.stream.model_copy(update={"cache": cache}),
            }
        )
