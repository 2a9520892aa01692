"""`hbt submit`: run another command as a job by `ray job submit`, after checks that report errors before Ray does."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from hbt_ray import ray_compat
from hbt_ray.errors import ConfigError, Interrupted, ResourceError
from hbt_ray.strict_yaml import read_yaml

RUNTIME_ENV = Path("cluster/runtime_env.yaml")
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ANSWER_SECONDS = 5.0
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS)$")
_MIN_SECRET_LETTERS = 8
"""Shorter values of secret variables occur in ordinary words by chance."""


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
    ] = RUNTIME_ENV,
    name: Annotated[str, typer.Option(help="Name of the job. Default: Ray chooses one.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job, or print its name and exit.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the `ray job submit` that does this.")] = False,
) -> None:
    """Run another command as a job on a cluster, by `ray job submit`, and follow its log.

    Checks first what can be wrong: the address, the token, Ray's version, the size of the working directory, secrets.
    """
    from hbt_ray.console import Screen

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
    """Refuse unknown commands before they are sent to the cluster."""
    group = context.parent.command if context.parent else None
    known = [name for name in getattr(group, "commands", {}) if name != context.info_name]
    if word not in known:
        near = get_close_matches(word, known, 1)
        guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"{word!r} is not a command that a job can run; {guess}", code="UNKNOWN_COMMAND")


@dataclass(frozen=True)
class Job:
    """A command that runs as a job on a cluster."""

    command: tuple[str, ...]
    """The words after `hbt`."""
    address: str
    """URL of the job server."""
    working_dir: str = "."
    """A folder, or the URI of a zip file, which becomes the job's working directory."""
    runtime_env: Path = RUNTIME_ENV
    """File with Ray's runtime environment."""
    name: str = ""
    """Submission id of the job; Ray generates one if it is empty."""
    wait: bool = True

    @property
    def ray_arguments(self) -> list[str]:
        """Arguments of the program `ray`."""
        return [
            *("job", "submit", "--address", self.address),
            *(("--submission-id", self.name) if self.name else ()),
            *(() if self.wait else ("--no-wait",)),
            *("--working-dir", self.working_dir, "--runtime-env", str(self.runtime_env)),
            *("--", "python", "-m", "hbt_ray", *self.command),
        ]

    @property
    def line(self) -> str:
        return shlex.join(("ray", *self.ray_arguments))

    def check(self) -> None:
        """Check runtime environment, working directory and secrets before a byte is sent."""
        environment = _read_runtime_env(self.runtime_env)
        _check_secrets(shlex.join(self.command), environment.get("env_vars", {}))
        if "://" not in self.working_dir:
            _check_size(Path(self.working_dir), environment.get("excludes", []), self.runtime_env)

    def submit(self) -> int:
        """Run `ray job submit`. Returns its exit code: 0, or 1 if the job failed or was not accepted.

        Raises:
            Interrupted: Ctrl-C. The job continues.
        """
        # Ray prefers its variable to the option.
        environment = {**os.environ, ADDRESS_VARIABLE: self.address}
        # The `ray` of this environment, whichever one is first on PATH.
        ray = [sys.executable, "-m", "ray.scripts.scripts", *self.ray_arguments]
        process = subprocess.Popen(ray, env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:  # The terminal has sent it to `ray` as well.
            process.wait()
            raise Interrupted(
                f"the job continues; `ray job logs --follow --address {self.address} JOB` shows its log again and "
                f"`ray job stop --address {self.address} JOB` stops it"
            ) from None


def job_server_address(option: str | None) -> str:
    """Return the address from the option, else from RAY_API_SERVER_ADDRESS, else this machine's."""
    address = (option or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS).rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address}: not the address of a job server. Give that of the head, such as http://HEAD:8265",
            code="JOB_ADDRESS",
        )
    if "@" in address:
        raise ConfigError(
            "the address contains a password, which logs would show. Use a token instead (RAY_AUTH_MODE=token)",
            code="JOB_ADDRESS",
        )
    return address


def check_job_server(address: str, name: str = "") -> None:
    """Check that a job server answers, accepts our token, runs our version of Ray and has no job of this name."""
    try:
        import aiohttp  # noqa: F401
        import ray
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ResourceError(
            f"jobs need the cluster extra: pip install 'hbt-ray[cluster]' ({error})", code="MISSING_PACKAGE"
        ) from None
    _check_answers(address)
    os.environ[ADDRESS_VARIABLE] = address  # Ray prefers its variable to the argument.
    try:
        client = JobSubmissionClient(address)
        version = ray_compat.job_server_version(client)
        names = {job.submission_id for job in client.list_jobs()} if name else set()
    except AuthenticationError as error:
        places = "in ~/.ray/auth_token, in the file that RAY_AUTH_TOKEN_PATH names, or in RAY_AUTH_TOKEN"
        if "Invalid" in str(error):
            message = f"{address} does not accept this token; put the cluster's token {places}"
        else:
            message = f"{address} asks for a token; set RAY_AUTH_MODE=token, and put the cluster's token {places}"
        raise ResourceError(message, code="JOB_SERVER_TOKEN") from None
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(f"{address}: {error}", code="JOB_SERVER") from None
    if version != ray.__version__:
        raise ResourceError(
            f"{address} runs Ray {version}, but this machine has {ray.__version__}; both and all nodes must be the "
            f"same. Run pip install 'ray[default]=={version}' here, or use an image with {ray.__version__}",
            code="RAY_VERSION",
        )
    if name in names:
        raise ConfigError(f"--name {name}: the cluster has a job of this name; choose another", code="JOB_NAME")


def _check_answers(address: str) -> None:
    """Request the version with a time limit: Ray's client has none, and an address may drop packets."""
    advice = f"set {ADDRESS_VARIABLE} or --address to the address of the job server"
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS) as answer:
            json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # Ray's client turns these into an AuthenticationError.
            raise ResourceError(
                f"{address} answers, but is not a job server of Ray (HTTP {error.code}); {advice}", code="JOB_SERVER"
            ) from None
    except OSError as error:
        raise ResourceError(
            f"{address} does not answer ({getattr(error, 'reason', error)}). Check that the cluster is up and that "
            f"`ray dashboard CLUSTER.yaml` or `kubectl port-forward` is running, or {advice}",
            code="JOB_SERVER",
        ) from None
    except (KeyError, TypeError, ValueError):
        raise ResourceError(f"{address} answers, but is not a job server of Ray; {advice}", code="JOB_SERVER") from None


def _read_runtime_env(path: Path) -> dict[str, Any]:
    from ray.runtime_env import RuntimeEnv

    try:
        environment = read_yaml(path)
        if not isinstance(environment, dict):
            raise ValueError(f"it contains a {type(environment).__name__} instead of keys")
        if unknown := environment.keys() - RuntimeEnv.known_fields:
            raise ValueError(f"Ray does not know the key {', '.join(map(repr, sorted(map(str, unknown))))}")
        RuntimeEnv(**{key: value for key, value in environment.items() if key != "working_dir"})
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file, and without its excludes the job would also send data and runs. Run this from the "
            "folder that has it, or name another with --runtime-env",
            code="RUNTIME_ENV",
        ) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a runtime environment of Ray ({error})", code="RUNTIME_ENV") from None
    return environment


def _check_secrets(entrypoint: str, variables: Mapping[str, str]) -> None:
    """Refuse secrets of this environment in the texts that the job's log and the dashboard show."""
    visible = {"the command": entrypoint} | {f"env_vars.{name}": value for name, value in variables.items()}
    for name, value in os.environ.items():
        if not _SECRET_NAME.search(name.upper()) or len(value) < _MIN_SECRET_LETTERS:
            continue
        for place, text in visible.items():
            if value in text:
                raise ConfigError(
                    f"{place} contains the value of {name}, which the job's log and the dashboard would show. Set "
                    f"{name} in the environment of the nodes instead",
                    code="SECRET_IN_JOB",
                )


def _check_size(root: Path, excludes: list[str], runtime_env: Path) -> None:
    if not root.is_dir():
        raise ConfigError(f"--working-dir {root}: no such folder", code="WORKING_DIR")
    sizes, limit = ray_compat.package_sizes(root, excludes), ray_compat.max_package_bytes()
    if (total := sizes.total()) > limit:
        largest = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.most_common(3))
        raise ConfigError(
            f"--working-dir {root.absolute()}: {total / 2**20:,.0f} MiB would be sent, but Ray's job server takes "
            f"{limit / 2**20:.0f} MiB; the largest are {largest}. Add them to `excludes` in {runtime_env} or to "
            ".gitignore, and put data where all nodes can read it",
            code="WORKING_DIR",
        )
