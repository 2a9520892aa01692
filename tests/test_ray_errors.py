"""Errors that cross Ray arrive as their cause, in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from hbt_ray.errors import HbtError, ModelError, ResourceError, StorageError
from hbt_ray.ray_errors import WORKER_LIMITS, Guarded, cause_of, explain, guarded_batches

pytestmark = pytest.mark.usefixtures("ray_session")


def failing(where: str, error: BaseException | None) -> Callable[[pa.Table], pa.Table]:
    """Work that fails when it is made, when it is called, or by the death of its process."""
    if where == "made" and error:
        raise error

    def work(batch: pa.Table) -> pa.Table:
        if where == "dead":
            os._exit(3)
        if error:
            raise error
        return batch

    return work


def through_ray_data(where: str, error: BaseException | None) -> list[pa.Table]:
    dataset = ray.data.from_arrow([pa.table({"a": [1, 2]}), pa.table({"a": [3]})]).map_batches(
        Guarded,
        fn_constructor_args=(failing, where, error),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        **WORKER_LIMITS,
    )
    return list(guarded_batches(dataset, "it could not encode"))


def test_what_works_is_given() -> None:
    assert sorted(pa.concat_tables(through_ray_data("", None))["a"].to_pylist()) == [1, 2, 3]


@pytest.mark.parametrize("where", ["made", "called"])
def test_an_error_of_ours_arrives_as_it_was_raised(where: str) -> None:
    with pytest.raises(ModelError) as caught:
        through_ray_data(where, ModelError("no padding token", code="MODEL_TOKENIZER"))
    assert (str(caught.value), caught.value.code) == ("no padding token", "MODEL_TOKENIZER")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (IndexError("index out of range in self"), HbtError, "WORKER_FAILED"),
        (MemoryError(), ResourceError, "OUT_OF_MEMORY"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), ResourceError, "OUT_OF_MEMORY"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ResourceError, "OUT_OF_MEMORY"),
        (OSError(28, "No space left on device", "/x/y"), StorageError, "STORAGE"),
    ],
)
def test_foreign_errors_are_named_in_one_line(error: Exception, kind: type[HbtError], code: str) -> None:
    named = explain(error)
    assert (type(named), named.code) == (kind, code)
    assert "\n" not in str(named)


def test_a_foreign_error_of_a_worker_arrives_in_one_line() -> None:
    with pytest.raises(HbtError) as caught:
        through_ray_data("called", IndexError("index out of range in self"))
    assert caught.value.code == "WORKER_FAILED"
    assert str(caught.value) == "IndexError: index out of range in self"


@pytest.mark.integration
def test_a_process_that_dies_at_every_try_ends_the_work() -> None:
    with pytest.raises(ResourceError) as caught:
        through_ray_data("dead", None)
    assert caught.value.code == "WORKER_DIED"
    assert "\n" not in str(caught.value)


class Failing:
    """An actor, a task and a Ray Data job that are not guarded."""

    def __init__(self, error: BaseException) -> None:
        raise error

    def ping(self) -> None:
        pass


def unguarded(way: str, error: BaseException) -> Any:
    if way == "task":

        def work() -> None:
            raise error

        return ray.get(ray.remote(work).remote())
    if way == "actor":
        return ray.get(ray.remote(Failing).remote(error).ping.remote())

    def map_batch(batch: pa.Table) -> pa.Table:
        raise error

    return list(ray.data.from_arrow(pa.table({"a": [1]})).map_batches(map_batch, batch_format="pyarrow").iter_batches())


@pytest.mark.integration
@pytest.mark.parametrize("way", ["task", "actor", "data"])
def test_the_cause_is_found_behind_every_wrapper(way: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Whatever Ray wraps it in.
        unguarded(way, ModelError("positions beyond 512"))
    assert isinstance(explain(caught.value), ModelError)
    assert str(explain(caught.value)) == "positions beyond 512"
    with pytest.raises(Exception) as caught:  # noqa: PT011
        unguarded(way, ValueError("a foreign one"))
    assert type(cause_of(caught.value)).__name__ == "ValueError"
    assert str(explain(caught.value, "encoding")) == "encoding: ValueError: a foreign one"


def test_an_error_that_ray_did_not_wrap_stays() -> None:
    error = ValueError("x")
    assert cause_of(error) is error
