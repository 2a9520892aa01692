"""Jobs: a command → a job on a cluster, followed to its end."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hbt_ray.console import Screen, printable
from hbt_ray.errors import ConfigError, HbtError, Interrupted, ResourceError
from hbt_ray.job.parcel import Parcel, sizes_of, too_large
from hbt_ray.job.server import connect

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

SILENCE_SECONDS = 60.0
"""A port that is forwarded breaks now and then; following ends when nothing has come for so long since it broke."""
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]")
_MISSING = re.compile(r"No module named '?hbt_ray\b")


@dataclass(frozen=True)
class Job:
    """A job on a cluster, and how others are told of it."""

    client: JobSubmissionClient
    address: str
    name: str

    def how(self, what: str) -> str:
        return f"`ray job {what} --address {self.address} {self.name}`"

    @property
    def details(self) -> JobDetails:
        return self.client.get_job_info(self.name)


def submit(parcel: Parcel, address: str, screen: Screen) -> Job:
    """Send a command to a cluster.

    Raises:
        ConfigError: something is wrong with the parcel.
        ResourceError: the job server does not answer, or does not take it.
    """
    environment = parcel.environment()
    client = connect(address)
    try:
        name = client.submit_job(
            entrypoint=parcel.entrypoint, runtime_env=environment, submission_id=parcel.name or None
        )
    except (OSError, RuntimeError) as error:
        raise _refused(parcel, address, str(error)) from None
    job = Job(client, address, name)
    screen.say(f"{name} runs on {address}: {parcel.entrypoint}")
    return job


def _refused(parcel: Parcel, address: str, error: str) -> HbtError:
    if "already exists" in error:
        return ConfigError(f"--name {parcel.name}: a job of the cluster has this name; choose another")
    if "status code 413" in error:
        sizes = sizes_of(Path(parcel.working_dir), parcel.environment().get("excludes", []))
        return ConfigError(too_large(Path(parcel.working_dir), sizes.total(), sizes, parcel.runtime_env))
    lines = [line for line in error.splitlines() if line.strip(" .")] or [error]
    return ResourceError(f"{address} does not take the job: {lines[-1]}")


def follow(job: Job, screen: Screen, *, stop_on_ctrl_c: bool = False, out: TextIO | None = None) -> int:
    """Write the job's log as it comes, to standard output by default.

    Returns:
        The exit code of the job's command.

    Raises:
        Interrupted: Ctrl-C; the job was stopped or goes on, as was asked for.
        ResourceError: the command did not run, or the job server does not answer any more.
    """
    log = _Log(job, out or sys.stdout)
    try:
        log.follow()
    except KeyboardInterrupt:
        if not stop_on_ctrl_c:
            raise Interrupted(
                f"{job.name} goes on; {job.how('logs --follow')} follows again, {job.how('stop')} stops it"
            ) from None
        _stop(job, log, screen)
        raise Interrupted(f"{job.name} was stopped; a run goes on from its last checkpoint when sent again") from None
    return _exit_code(job, log)


def _stop(job: Job, log: _Log, screen: Screen) -> None:
    screen.say(f"stopping {job.name}; Ctrl-C again does not wait for its end")
    try:
        job.client.stop_job(job.name)
        log.follow()
    except KeyboardInterrupt:
        raise Interrupted(f"{job.name} was asked to stop; {job.how('status')} says whether it did") from None
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"{job.name} could not be asked to stop ({error}); {job.how('stop')} does") from None


def _exit_code(job: Job, log: _Log) -> int:
    details = job.details
    code: int | None = details.driver_exit_code
    if _MISSING.search(log.end):
        raise ResourceError(
            "hbt_ray is not there: the job has it from its working directory, so call this from a folder that holds "
            "hbt_ray/, name one with --working-dir, or install it in the image of the nodes"
        )
    if code is not None:
        return code if code >= 0 else 128 - code
    if details.status == "SUCCEEDED":
        return 0
    if details.status == "STOPPED":
        raise Interrupted(f"{job.name} was stopped; a run goes on from its last checkpoint when sent again")
    why = plain(details.message or "no reason is given").strip().splitlines()
    raise ResourceError(f"{job.name} ended without an exit code of its command: {why[-1]}; {job.how('logs')} has more")


def plain(text: str) -> str:
    """Without what moves a cursor, colours or rings: a log's lines stay lines."""
    return printable(_CONTROL.sub("", text))


class _Log:
    """The log of a job, followed over connections that break."""

    def __init__(self, job: Job, out: TextIO) -> None:
        self._job, self._out = job, out
        self._num_written = 0
        self._broken_since: float | None = None
        """When it broke first without a word since; a job may well say nothing for hours before."""
        self.end = ""
        """The last letters."""

    def follow(self) -> None:
        """Return when the job has ended and its log is written."""
        import aiohttp

        while True:
            try:
                asyncio.run(self._tail())
                if self._job.details.status.is_terminal():
                    return
                self._broken_since = None
            except (aiohttp.ClientError, OSError, RuntimeError) as error:
                now = time.monotonic()
                self._broken_since = now if self._broken_since is None else self._broken_since
                if now - self._broken_since > SILENCE_SECONDS:
                    raise ResourceError(
                        f"{self._job.address} does not answer any more ({error}); the job goes on if the cluster does, "
                        f"and {self._job.how('logs --follow')} follows it"
                    ) from None
            time.sleep(1)

    async def _tail(self) -> None:
        """Ray tells the log from its beginning."""
        num_read = 0
        async for text in self._job.client.tail_job_logs(self._job.name):
            num_read += len(text)
            self._broken_since = None
            if new := text[-(num_read - self._num_written) :] if num_read > self._num_written else "":
                self._write(new)

    def _write(self, text: str) -> None:
        self._num_written += len(text)
        self.end = (self.end + text)[-2000:]
        self._out.write(plain(text))
        self._out.flush()
