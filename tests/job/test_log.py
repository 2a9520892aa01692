"""A job's log is written once, in order, over connections that break, and its end is the command's."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from hbt_ray.console import Screen
from hbt_ray.errors import Interrupted, ResourceError
from hbt_ray.workflow import submitting
from hbt_ray.workflow.submitting import Job, follow, plain

LOG = ["step 1\n", "step 2\n", "loss ", ".5\n", "done\n"]


class Client:
    """A job server whose connections break: each tells the log from its beginning up to some part of it."""

    def __init__(self, connections: Iterator[int | Exception], **details: Any) -> None:
        self._connections = connections
        self._told = 0
        self._details = {"status": JobStatus.SUCCEEDED, "driver_exit_code": 0, "message": "", **details}

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        length = next(self._connections)
        if isinstance(length, Exception):
            raise length
        for text in LOG[:length]:
            yield text
        submitting.time.monotonic(), submitting.time.monotonic()  # It says nothing for long.
        self._told = length
        if length < len(LOG):
            raise ConnectionResetError("the port was closed")

    def get_job_info(self, name: str) -> Any:
        ended = self._told == len(LOG)
        return SimpleNamespace(**{**self._details, **({} if ended else {"status": JobStatus.RUNNING})})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two connections; more than the longest silence passes with every second look."""
    looks = iter(range(0, 100_000, 40))
    clock = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(looks)))
    monkeypatch.setattr(submitting, "time", clock)


def followed(*connections: int | Exception, **details: Any) -> tuple[int, str]:
    """The exit code, and what was written."""
    out = io.StringIO()
    job = Job(Client(iter(connections), **details), "http://head:8265", "faq")  # type: ignore[arg-type]
    return follow(job, Screen(silent=True), out=out), out.getvalue()


@pytest.mark.parametrize("connections", [(5,), (2, 5), (3, 1, 4, 5), (0, 5), (4, OSError("no route"), 5)])
def test_every_letter_is_written_once(connections: tuple[int | Exception, ...]) -> None:
    assert followed(*connections) == (0, "".join(LOG))


def test_a_server_that_stays_silent_is_given_up() -> None:
    with pytest.raises(ResourceError, match=r"http://head:8265 does not answer any more \(no route\).*logs --follow"):
        followed(2, *[OSError("no route")] * 9)


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (2, 2), (-15, 143)])
def test_the_exit_code_is_the_command_s(code: int, seen: int) -> None:
    """A signal is told as a shell tells it."""
    assert followed(5, driver_exit_code=code)[0] == seen


def test_a_job_without_an_exit_code_says_why() -> None:
    with pytest.raises(ResourceError, match="ended without an exit code of its command: the node was lost"):
        followed(5, driver_exit_code=None, status=JobStatus.FAILED, message="Job failed\n\x1b[31mthe node was lost")
    with pytest.raises(Interrupted, match="was stopped"):
        followed(5, driver_exit_code=None, status=JobStatus.STOPPED)


def test_what_moves_a_cursor_is_left_out() -> None:
    assert plain("a\x1b[2K\rb\x1b]0;title\x07\tc\n\x07") == "ab\tc\n"
