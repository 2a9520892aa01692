"""The errors a user can meet: each says what is wrong, where, why it matters and what to do instead.

`exit_code` is what the command line returns: 2 where the user's input is wrong, 1 for anything else.
Ray pickles errors between processes, so every class here must survive `pickle` with its data.
"""

from __future__ import annotations

from typing import Any


class HbtError(Exception):
    """Root of all errors that hbt_ray raises on purpose."""

    exit_code = 1


class InputError(HbtError):
    """The user's input is wrong; nothing was written over."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or a `key=value` override does not make sense."""


class SourceError(InputError):
    """A source file is missing, empty or not of the promised shape."""


class StoreError(InputError):
    """A store is missing, incomplete or damaged."""


class NegativesError(StoreError):
    """Mined negatives are missing, damaged, or those of another store."""


class PlanError(InputError):
    """The data cannot serve the batches that the plan asks for."""


class PlanMismatch(PlanError):
    """A checkpoint was made under another plan than the one that is to continue it."""

    def __init__(self, field: str, saved: object, current: object) -> None:
        super().__init__(
            f"the checkpoint was made with {field}={saved!r}, this run has {current!r}, so the batches would differ "
            f"from the ones already trained on. Restore {field}={saved!r}, or start a new run with another name."
        )
        self.field, self.saved, self.current = field, saved, current

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.saved, self.current)


class CheckpointError(InputError):
    """A checkpoint is cut short or changed."""


class StorageError(HbtError):
    """A checkpoint could not be written; those before it are as they were."""

    def __init__(self, path: str, step: int, reason: str, free_bytes: int) -> None:
        super().__init__(
            f"{path}: the checkpoint of step {step} could not be written ({reason}; {free_bytes / 2**30:,.1f} GiB are "
            "free there). The checkpoints before it are whole. Make room or let the folder be written to, and run the "
            "same command again, which goes on from the newest."
        )
        self.path, self.step, self.reason, self.free_bytes = path, step, reason, free_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.step, self.reason, self.free_bytes)


class ModelError(InputError):
    """A model folder or name cannot be loaded as an encoder."""


class TaskError(InputError):
    """An evaluation task is unknown, empty or contradicts itself."""


class ResourceError(InputError):
    """The cluster cannot give what the run asks for."""


class Interrupted(HbtError):
    """The user pressed Ctrl-C."""

    exit_code = 130


class ValidationFailed(HbtError):
    """A checkpoint could not be judged on the dev store; training stopped, as it decides by those results."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(
            f"the checkpoint of step {step} could not be validated: {reason}. All checkpoints are kept; the same "
            "command validates it again and goes on, and validation.store=null goes on without"
        )
        self.step, self.reason = step, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.reason)


class StalledRank(HbtError):
    """A rank was stuck in a step, and restarts did not help; the checkpoints are kept."""

    def __init__(self, step: int, seconds: float, places: dict[int, str]) -> None:
        told = "; ".join(f"rank {rank} was at {where}" for rank, where in sorted(places.items()))
        super().__init__(
            f"step {step} was not done within {seconds:g} s, and restarting the workers did not help: {told}. A rank "
            "that is not named did not answer at all. Look at that machine or at what it reads from, or raise "
            "workers.deadline_seconds; the same command goes on from the last checkpoint."
        )
        self.step, self.seconds, self.places = step, seconds, places

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.seconds, self.places)


class LostRank(HbtError):
    """The process or the node of a rank died, and no restart is left; the checkpoints are kept."""

    def __init__(self, rank: int, death: str, restarts: int) -> None:
        lines = [line.strip() for line in death.splitlines() if line.strip()] or ["no reason is known"]
        place = next((f" on {line.removeprefix('ip: ')}" for line in lines if line.startswith("ip: ")), "")
        super().__init__(
            f"rank {rank}{place} was lost after {restarts} restarts: {lines[-1]}. Look at that node's memory, disk and "
            "link, or raise workers.max_failures; the same command goes on from the last checkpoint."
        )
        self.rank, self.death, self.restarts = rank, death, restarts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rank, self.death, self.restarts)


class NonFiniteLoss(HbtError):
    """The loss or its gradient is not a finite number; every rank stopped before the optimiser step."""

    def __init__(self, step: int, loss: float, gradient_norm: float) -> None:
        super().__init__(
            f"at step {step} the loss is {loss} and the norm of its gradient {gradient_norm}; all ranks stopped before "
            "the weights changed. Lower optimiser.learning_rate or raise loss.temperature, and continue from the last "
            "checkpoint."
        )
        self.step, self.loss, self.gradient_norm = step, loss, gradient_norm

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.loss, self.gradient_norm)
