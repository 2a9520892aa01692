"""Errors that Ray carries between processes: the cause in one line, without wrappers, tracebacks and advice of Ray.

Ray wraps the error of a task two or three times and may keep only its text (`UserCodeException` loses its cause when it
is pickled). `explain` finds the cause behind the wrappers. With `Guarded`, the workers of a Ray Data job return an
error as a row: Ray prints and retries nothing, and the error arrives as the class that was raised.
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
"""Number of times that a worker process is started again after it died. Ray's default is unlimited."""
WORKER_LIMITS = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}
"""Options for Ray Data's actors. A process that dies at every try ends the job."""

if TYPE_CHECKING:
    import pyarrow as pa

_FAILURE = "hbt_ray_failure"
_MEMORY_MESSAGES = ("out of memory", "running low on memory", "can't allocate memory")
_DEATHS = ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError")
"""Ray's errors for a process that died."""
_LONGEST = 400
_RAISED = re.compile(r"^(?!ray[.:])(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
"""The line of a printed traceback that names the error. Ray's own classes are wrappers."""
_TRACEBACK = "Traceback (most recent call last):"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def explain(error: BaseException, what: str = "") -> HbtError:
    """Return the error that user code raised, as an `HbtError`.

    An `HbtError` is returned as it was raised, also if a library has raised another error from it. Other errors become
    one line: no memory, no space, a dead process, or class and message of the error.

    Args:
        what: the work that failed, such as "encoding".
    """
    cause = cause_of(error)
    origin: BaseException | None = cause
    while origin is not None:
        if isinstance(origin, HbtError):
            return origin
        origin = origin.__cause__
    if (storage := storage_error(cause)) is not None:
        return storage
    text = describe_error(cause)
    start = f"{what}: " if what else ""
    if _is_out_of_memory(cause, text):
        return ResourceError(
            f"{start}out of memory ({text}). Lower the batch size, the length of texts or the number of workers, or "
            "use a machine with more memory",
            code="OUT_OF_MEMORY",
        )
    if type(cause).__name__ in _DEATHS:
        return ResourceError(
            f"{start}a worker process died ({text}). It may have run out of memory, or its machine was lost: lower the "
            "batch size or the number of workers, and run the same command again",
            code="WORKER_DIED",
        )
    return HbtError(f"{start}{text}", code="WORKER_FAILED")


def cause_of(error: BaseException) -> BaseException:
    """Return the innermost error inside Ray's wrappers; the error itself if Ray did not wrap it."""
    wrappers: list[BaseException] = []
    current = error
    while is_ray_error(current) and current not in wrappers:
        wrappers.append(current)
        current = _wrapped(current) or current
    if not is_ray_error(current):
        return current
    # A pickled wrapper has lost its cause. The outermost wrapper still has the cause as text.
    printed = (_from_text(str(wrapper)) for wrapper in wrappers)
    return next((cause for cause in printed if cause is not None), error)


def describe_error(error: BaseException) -> str:
    """Return class and message of an error as one line of limited length."""
    message = " ".join(_ANSI.sub("", str(error)).split())
    message = message if len(message) <= _LONGEST else message[:_LONGEST] + "…"
    if isinstance(error, HbtError) or type(error).__name__ in message[: _LONGEST // 4]:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Guarded:
    """Actor class for `Dataset.map_batches` that returns an error as a row instead of raising it.

    Pass `make` and its arguments as `fn_constructor_args`, with `batch_size=None` and `batch_format="pyarrow"`.
    Read the results with `guarded_batches`.

    Args:
        make: creates the function from batch to batch, in the worker process.
    """

    def __init__(self, make: Callable[..., Callable[[pa.Table], pa.Table]], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._work: Callable[[pa.Table], pa.Table] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            # Not in `__init__`: Ray prints errors of a constructor.
            self._work = self._work or self._make(*self._arguments)
            return self._work(batch)
        except Exception as error:
            return failure(error)


def failure(error: BaseException) -> pa.Table:
    """Return the table that a task returns instead of its result. `guarded_batches` raises the error from it."""
    import pyarrow as pa  # Not at the top: the command line imports this module at the end of each command.

    return pa.table({_FAILURE: [pickle.dumps(explain(error))]})


def guarded_batches(dataset: Any, what: str, prefetch_batches: int = 1) -> Iterator[pa.Table]:
    """Yield the batches of a dataset whose tasks may return a `failure`, as `Guarded` does, and raise its error."""
    import ray

    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=prefetch_batches):
            if _FAILURE in batch.column_names:
                raise next(pickle.loads(error) for error in batch[_FAILURE].to_pylist() if error is not None)
            yield batch
    except ray.exceptions.RayError as error:
        raise explain(error, what) from error


def is_ray_error(error: BaseException) -> bool:
    """Return whether the error's class belongs to Ray, as the wrapper of a task's error does."""
    return type(error).__module__.partition(".")[0] == "ray" or type(error).__name__.startswith("RayTaskError")


def _wrapped(error: BaseException) -> BaseException | None:
    for inner in (
        getattr(error, "cause", None),
        getattr(error, "_base_exc", None),
        *getattr(error, "worker_failures", {}).values(),
        error.__cause__,
    ):
        # Ray Data sets an empty SystemException as the cause.
        if isinstance(inner, BaseException) and inner is not error and str(inner):
            return inner
    return None


def _from_text(text: str) -> BaseException | None:
    """Parse the error from a printed traceback. The first of a chain is the cause of the others."""
    lines = _ANSI.sub("", text).splitlines()
    begins = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK or line.startswith("  File ")]
    if not begins:
        return None
    for line in lines[begins[0] :]:
        raised = _RAISED.match(line)
        if raised is None or line == _TRACEBACK:
            continue
        kind, message = raised["kind"].rpartition(".")[2], raised["message"] or ""
        own_class = getattr(errors, kind, None)
        if isinstance(own_class, type) and issubclass(own_class, HbtError):
            try:
                return own_class(message)
            except TypeError:  # The class has fields, which the text lacks.
                return HbtError(message)
        # A class of the same name, since the real one may not be importable here.
        foreign: BaseException = type(kind, (Exception,), {})(message)
        return foreign
    return None


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    is_memory_error = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return is_memory_error or any(words in text.lower() for words in _MEMORY_MESSAGES)
