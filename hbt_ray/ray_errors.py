"""Errors that cross Ray: the cause in one line, in place of Ray's wrappers, tracebacks and advice.

Ray wraps what a task raises two or three times and may keep only its text (`UserCodeException` loses its cause when it
is pickled). `explain` looks through the wrappers. `Guarded` goes further: the workers of a Ray Data job return an error
as a row, so Ray prints nothing about it, retries nothing, and the error arrives as the class that was raised.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hbt_ray import errors
from hbt_ray.errors import HbtError, ResourceError
from hbt_ray.storage import storage_error

MAX_RESTARTS = 3
"""Times that a worker process which died is started again. Ray's own default is without end."""
WORKER_LIMITS = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}
"""Options of Ray Data's actors: a process that dies at every try ends the job."""

if TYPE_CHECKING:
    import pyarrow as pa

_FAILURE = "hbt_ray_failure"
_LONGEST = 400
_RAISED = re.compile(r"^(?!ray[.:])(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
"""The line of a printed traceback that names the error. Ray's own classes are wrappers."""
_TRACEBACK = "Traceback (most recent call last):"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def explain(error: BaseException, what: str = "") -> HbtError:
    """The error that user code raised, as one of ours; `what` names the work that failed.

    Errors of our own come back as they were raised. Others become one line: no memory, no space, a dead process, or
    the class and the message of what was raised.
    """
    cause = cause_of(error)
    if isinstance(cause, HbtError):
        return cause
    if (storage := storage_error(cause)) is not None:
        return storage
    text = one_line(cause)
    start = f"{what}: " if what else ""
    if _is_out_of_memory(cause, text):
        return ResourceError(
            f"{start}out of memory ({text}). Lower the batch size, the length of texts or the number of workers, or "
            "use a machine with more memory",
            code="OUT_OF_MEMORY",
        )
    if _is_dead(cause):
        return ResourceError(
            f"{start}a worker process died ({text}). It may have run out of memory, or its machine was lost: lower the "
            "batch size or the number of workers, and run the same command again",
            code="WORKER_DIED",
        )
    return HbtError(f"{start}{text}", code="WORKER_FAILED")


def cause_of(error: BaseException) -> BaseException:
    """The innermost error behind those of Ray; the error itself if Ray did not wrap it."""
    wrappers: list[BaseException] = []
    current = error
    while is_rays(current) and current not in wrappers:
        wrappers.append(current)
        current = _wrapped(current) or current
    if not is_rays(current):
        return current
    # Pickled wrappers have lost what they wrap; the outermost still has it as text.
    printed = (_from_text(str(wrapper)) for wrapper in wrappers)
    return next((cause for cause in printed if cause is not None), error)


def one_line(error: BaseException) -> str:
    """Class and message of an error, cut to a line that people read."""
    message = " ".join(_ANSI.sub("", str(error)).split())
    message = message if len(message) <= _LONGEST else message[:_LONGEST] + "…"
    if isinstance(error, HbtError) or type(error).__name__ in message[: _LONGEST // 4]:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Guarded:
    """A class for `Dataset.map_batches` that makes and calls `work`, and returns what it raises as a row.

    Give it as the class, with `work` and its arguments as `fn_constructor_args`, `batch_size=None` and the format
    `pyarrow`; read the results through `guarded_batches`.
    """

    def __init__(self, work: Callable[..., Callable[[pa.Table], pa.Table]], *arguments: Any) -> None:
        self._make, self._arguments = work, arguments
        self._work: Callable[[pa.Table], pa.Table] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            # Made here and not in `__init__`: Ray prints what a constructor raises.
            self._work = self._work or self._make(*self._arguments)
            return self._work(batch)
        except Exception as error:
            return failure(error)


def failure(error: BaseException) -> pa.Table:
    """What a task returns in place of its result, for `guarded_batches` to raise."""
    import pyarrow as pa  # Not at the top: the command line imports this module when a command ends.

    return pa.table({_FAILURE: [pickle.dumps(explain(error))]})


def guarded_batches(dataset: Any, what: str, prefetch_batches: int = 1) -> Iterator[pa.Table]:
    """The batches of a dataset whose tasks return a `failure` where they fail, as `Guarded` does.

    Raises:
        HbtError: what a worker raised, or why Ray gave up; `what` names the work.
    """
    import ray

    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=prefetch_batches):
            if _FAILURE in batch.column_names:
                raise next(pickle.loads(each) for each in batch[_FAILURE].to_pylist() if each is not None)
            yield batch
    except ray.exceptions.RayError as error:
        raise explain(error, what) from error


def is_rays(error: BaseException) -> bool:
    """Whether Ray made the error, as a rule to wrap that of a task."""
    return type(error).__module__.partition(".")[0] == "ray" or type(error).__name__.startswith("RayTaskError")


def _wrapped(error: BaseException) -> BaseException | None:
    for inner in (
        getattr(error, "cause", None),
        getattr(error, "_base_exc", None),
        *getattr(error, "worker_failures", {}).values(),
        error.__cause__,
    ):
        # Ray Data puts an empty SystemException in the place of the cause.
        if isinstance(inner, BaseException) and inner is not error and str(inner):
            return inner
    return None


def _from_text(text: str) -> BaseException | None:
    """The error that a printed traceback names. Of a chain the first, which is the cause of the others."""
    lines = _ANSI.sub("", text).splitlines()
    begins = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK or line.startswith("  File ")]
    if not begins:
        return None
    for line in lines[begins[0] :]:
        raised = _RAISED.match(line)
        if raised is None or line == _TRACEBACK:
            continue
        kind, message = raised["kind"].rpartition(".")[2], raised["message"] or ""
        ours = getattr(errors, kind, None)
        if isinstance(ours, type) and issubclass(ours, HbtError):
            try:
                return ours(message)
            except TypeError:  # An error with fields of its own, which a text does not have.
                return HbtError(message)
        foreign: BaseException = type(kind, (Exception,), {})(message)
        return foreign
    return None


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    lowered = text.lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or any(words in lowered for words in ("out of memory", "running low on memory", "can't allocate memory"))
    )


def _is_dead(error: BaseException) -> bool:
    dead = ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError")
    return type(error).__name__ in dead
