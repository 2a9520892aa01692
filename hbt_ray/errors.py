"""The errors that hbt_ray raises: each message says what is wrong, where, and what to do instead.

`exit_code` is that of the command line: 2 if the user's input or environment is wrong, 1 for anything else.
Ray pickles errors between processes, so every class must survive `pickle` with its fields.
"""

from __future__ import annotations

import copyreg
import re
import time
from typing import Any

_USER_INFO = re.compile(
    r"""(?i)(\w[\w+.-]*:/+)[^\s/@:'"]*:(?!\d{1,5}[/?#])(?:[^\s/'"]*@|[^\s'"]*@)|(https?:/+)[^\s/@:'"]+@"""
)
"""`SCHEME://USER:PASSWORD@` and `https://TOKEN@`; a path may have lost a slash. A port is not a password."""
_QUERY_SECRET = re.compile(
    r"""(?i)([?&;][\w.-]*(?:key|token|secret|passw|pwd|signature|sig|credential|auth)[\w.-]*=)[^\s&;#'"]+"""
)
"""Parameters of a URI such as `?token=VALUE`; the group is the part before the value."""


def redact(text: str) -> str:
    """The text without passwords and keys in URIs: `s3://KEY:SECRET@bucket` → `s3://***@bucket`."""
    if ":/" not in text:
        return text
    return _QUERY_SECRET.sub(r"\1***", _USER_INFO.sub(lambda match: f"{match[1] or match[2]}***@", text))


class HbtError(Exception):
    """Root of all errors that hbt_ray raises on purpose.

    Args:
        code: short and stable, for tests and programs; the message may change.
    """

    exit_code = 1
    code = "FAILED"

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code  # An instance attribute, so that it survives `pickle`.

    def __reduce__(self) -> tuple[Any, ...]:
        # Without calling `__init__`, whose arguments are the fields of the class and not the message.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class InputError(HbtError):
    """The user's input is wrong; nothing was overwritten."""

    code = "INVALID_INPUT"
    exit_code = 2


class ConfigError(InputError):
    """A configuration file or a `key=value` override has an unknown key or a value that is not allowed."""

    code = "INVALID_CONFIG"


class LocationError(InputError):
    """A location is neither a path nor the URI of an object store that can be opened."""

    code = "INVALID_LOCATION"


class SourceError(InputError):
    """A source file is missing, empty or not in the expected format."""

    code = "INVALID_SOURCE"


class StoreError(InputError):
    """A store is missing, incomplete or damaged."""

    code = "INVALID_STORE"


class NegativesError(StoreError):
    """Mined negatives are missing, damaged, or belong to another store."""

    code = "INVALID_NEGATIVES"


class PlanError(InputError):
    """The data cannot provide the batches that the plan asks for."""

    code = "INVALID_PLAN"


class PlanMismatch(PlanError):
    """A checkpoint was made with another plan than that of the run that continues it."""

    code = "PLAN_MISMATCH"

    def __init__(self, field: str, saved: object, current: object) -> None:
        super().__init__(
            f"the checkpoint was made with {field}={saved!r}, this run has {current!r}, so the batches would differ "
            f"from the ones already trained on. Restore {field}={saved!r}, or start a new run with another name."
        )
        self.field, self.saved, self.current = field, saved, current


class CheckpointError(InputError):
    """A checkpoint is truncated or was changed."""

    code = "INVALID_CHECKPOINT"


class DamagedFile(InputError):
    """A file that hbt_ray wrote is truncated or was changed."""

    code = "DAMAGED_FILE"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: damaged ({reason}). Restore it from a copy, or delete it and make it again")
        self.path, self.reason = path, reason


class LockedError(InputError):
    """Another command uses the run, search or index."""

    code = "LOCKED"

    def __init__(self, path: str, owner: dict[str, Any]) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"])) if "since" in owner else "?"
        super().__init__(
            f"{path}: in use by {owner.get('purpose', 'another command')} (process {owner.get('pid', '?')} on "
            f"{owner.get('host', '?')}, since {since}). Wait until it ends or stop it; nothing was changed"
        )
        self.path, self.owner = path, owner


class StorageError(InputError):
    """A file or folder cannot be written: the disk is full, read-only or not permitted."""

    code = "STORAGE"

    def __init__(self, path: str, reason: str, free_bytes: int = -1, what: str = "the file") -> None:
        free = f"; {free_bytes / 2**30:,.2f} GiB are free there" if free_bytes >= 0 else ""
        super().__init__(
            f"{path}: {what} cannot be written ({reason}{free}). What was complete before is unchanged. Make room or "
            "allow writing there, and run the same command again"
        )
        self.path, self.reason, self.free_bytes, self.what = path, reason, free_bytes, what


class ModelError(InputError):
    """A model folder or name cannot be loaded as an encoder."""

    code = "INVALID_MODEL"


class TaskError(InputError):
    """An evaluation task is unknown, empty or inconsistent."""

    code = "INVALID_TASK"


class ResourceError(InputError):
    """The cluster cannot provide what the command needs."""

    code = "RESOURCES"


class Interrupted(HbtError):
    """The user pressed Ctrl-C, or a signal ended the command."""

    code = "INTERRUPTED"
    exit_code = 130


class ValidationFailed(HbtError):
    """A checkpoint could not be evaluated on the dev store. Training stopped, since it depends on those results."""

    code = "VALIDATION_FAILED"

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(
            f"the checkpoint of step {step} could not be validated: {reason}. All checkpoints are kept; the same "
            "command validates it again and continues, and validation.store=null continues without validation"
        )
        self.step, self.reason = step, reason


class StalledRank(HbtError):
    """A rank was stuck in a step, and restarts did not help; the checkpoints are kept."""

    code = "STALLED_RANK"

    def __init__(self, step: int, seconds: float, places: dict[int, str]) -> None:
        stuck = "; ".join(f"rank {rank} was at {where}" for rank, where in sorted(places.items()))
        super().__init__(
            f"step {step} was not done within {seconds:g} s, and restarting the workers did not help: {stuck}. A rank "
            "that is not named did not answer at all. Look at that machine or at what it reads from, or raise "
            "workers.deadline_seconds; the same command continues from the last checkpoint."
        )
        self.step, self.seconds, self.places = step, seconds, places


class LostRank(HbtError):
    """The process or the node of a rank died, and no restart is left; the checkpoints are kept."""

    code = "LOST_RANK"

    def __init__(self, rank: int, death: str, restarts: int) -> None:
        # Ray describes a death in several lines: one may be `ip: ADDRESS`, and the last one is the reason.
        lines = [line.strip() for line in death.splitlines() if line.strip()] or ["no reason is known"]
        place = next((f" on {line.removeprefix('ip: ')}" for line in lines if line.startswith("ip: ")), "")
        super().__init__(
            f"rank {rank}{place} was lost after {restarts} restarts: {lines[-1]}. Look at that node's memory, disk and "
            "link, or raise workers.max_failures; the same command continues from the last checkpoint."
        )
        self.rank, self.death, self.restarts = rank, death, restarts


class NonFiniteLoss(HbtError):
    """The loss or its gradient is not a finite number; every rank stopped before the optimiser step."""

    code = "NON_FINITE_LOSS"

    def __init__(self, step: int, loss: float, gradient_norm: float) -> None:
        super().__init__(
            f"at step {step} the loss is {loss} and the norm of its gradient {gradient_norm}; all ranks stopped before "
            "the weights changed. Lower optimiser.learning_rate or raise loss.temperature, and continue from the last "
            "checkpoint."
        )
        self.step, self.loss, self.gradient_norm = step, loss, gradient_norm
