"""`hbt submit`: another command → a job on a cluster."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.errors import ConfigError


def submit(
    context: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="Such as: train train.yaml name=b")],
    address: Annotated[
        str | None,
        typer.Option(help="Address of the job server. Default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."),
    ] = None,
    working_dir: Annotated[str, typer.Option(help="Folder that is uploaded for the job.")] = ".",
    runtime_env: Annotated[
        Path, typer.Option(metavar="FILE", help="Ray's runtime environment; its excludes are not uploaded.")
    ] = Path("cluster/runtime_env.yaml"),
    name: Annotated[str, typer.Option(help="Name of the job. Default: Ray chooses one.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job, or print its name and exit.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the `ray job submit` that does this.")] = False,
) -> None:
    """Run another command as a job on a cluster, by `ray job submit`, and follow its log.

    Checks first what can be wrong: the address, the token, Ray's version, the size of the working directory, secrets.
    """
    from hbt_ray.console import Screen
    from hbt_ray.job_submission import Job, check_job_server, job_server_address

    _check_command(context, command[0])
    job = Job(tuple(command), job_server_address(address), working_dir, runtime_env, name, wait)
    if dry_run:
        print(job.line)
        return
    job.check()
    check_job_server(job.address, name)
    Screen(as_json=True).log(job.line)  # Standard output is the job's.
    raise typer.Exit(job.submit())


def _check_command(context: typer.Context, word: str) -> None:
    """Refuse unknown commands here, and not on the cluster.

    Raises:
        ConfigError: there is no such command.
    """
    group = context.parent.command if context.parent else None
    known = [name for name in getattr(group, "commands", {}) if name != context.info_name]
    if word not in known:
        near = get_close_matches(word, known, 1)
        guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"{word!r} is not a command that a job can run; {guess}")
