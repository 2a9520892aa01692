"""The training processes: how many, what each reserves, and what to say where the cluster cannot hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from hbt_ray.config import Config
from hbt_ray.errors import ResourceError

Count = Annotated[int, Field(gt=0)]


class WorkersConfig(Config):
    """The training processes."""

    count: Count | tuple[Count, Count] = 1
    """Ranks; each takes its slice of every global batch. Two numbers, such as [2, 8], are the least and the most of an
    elastic run, which takes as many as the cluster has room for; the global batches are the same for any number."""
    cpus: float = Field(1, gt=0)
    """Logical CPUs that one worker reserves, and threads that it computes with; data tasks take those beside them, if
    there are any."""
    gpu: bool = False
    """One GPU a worker."""
    max_failures: int = Field(3, ge=-1)
    """Restarts after a worker died, from the latest checkpoint; -1 is without end. A node that announced its end, such
    as a spot instance, does not count."""
    max_preemptions: int = Field(-1, ge=-1)
    """Restarts after nodes that announced their end; -1 is without end. A checkpoint is made at the notice."""
    preemption_grace_seconds: float = Field(0, ge=0)
    """How long the workers that are left may go on writing a checkpoint after the announced end. They hold still."""
    resize_seconds: float = Field(60, gt=0)
    """How often an elastic run looks whether there is room for more workers. To take them in is a restart."""
    start_seconds: float = Field(60, gt=0)
    """How long to wait for the workers' resources and their start, each time they are started."""
    deadline_seconds: float = Field(1_800, gt=0)
    """A rank that spends so long in a step, its batch included, is stalled: the workers are restarted."""

    @model_validator(mode="after")
    def _least_first(self) -> WorkersConfig:
        if self.least > self.most:
            raise ValueError(
                f"count=[{self.least}, {self.most}] is the least and the most; write the smaller one first"
            )
        return self

    @property
    def least(self) -> int:
        return self.count[0] if isinstance(self.count, tuple) else self.count

    @property
    def most(self) -> int:
        return self.count[1] if isinstance(self.count, tuple) else self.count

    @property
    def each(self) -> dict[str, float]:
        """What one worker reserves."""
        return {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}

    def __str__(self) -> str:
        number = f"{self.least} to {self.most}" if self.least < self.most else str(self.most)
        return f"{number} worker{'s' * (self.most > 1)}"


def missing_resources(
    workers: WorkersConfig, have: Mapping[str, float], beside: Mapping[str, float]
) -> dict[str, float]:
    """Resource → amount that is wanted and not there, for the fewest workers that the run may have.

    Args:
        beside: what must have room besides.
    """
    wanted = {name: workers.least * amount + beside.get(name, 0) for name, amount in workers.each.items()}
    return {name: amount for name, amount in wanted.items() if have.get(name, 0) < amount}


def not_enough_resources(
    workers: WorkersConfig, lack: Mapping[str, float], have: Mapping[str, float], free: Mapping[str, float]
) -> ResourceError:
    """Says what was asked for, what the cluster has, and what others hold of it."""
    asked = ", ".join(f"{amount:g} {name}" for name, amount in lack.items())
    there = ", ".join(f"{have.get(name, 0):g} {name}, {free.get(name, 0):g} of them free" for name in lack)
    return ResourceError(
        f"{workers.least} workers and what runs beside them need {asked}; the cluster has {there}. Lower workers.count "
        "or workers.cpus, add nodes, or wait for what holds the rest"
    )
