"""The parcel: what a job runs, and what it takes along. Whatever can be wrong with it shows before it is sent."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.errors import ConfigError
from hbt_ray.strict_yaml import read_yaml

RUNTIME_ENV = Path("cluster/runtime_env.yaml")
MOST_BYTES = 100 * 2**20
"""Ray's store of packages takes 500 MiB, but its job server no request over 100 MiB
(`ray._private.ray_constants.DASHBOARD_CLIENT_MAX_SIZE`); packages are not compressed."""
_LOGGER = logging.getLogger(__name__)
_PROGRAM = ("python", "-m", "hbt_ray")
_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS)$")
_LEAST_LETTERS = 8
"""Of a value that is searched for: shorter ones stand in words by chance."""


@dataclass(frozen=True)
class Parcel:
    """
    Args:
        command: what comes after `hbt`.
        working_dir: a folder here, or the URI of a zip file, which becomes the job's working directory.
        runtime_env: a file of Ray's runtime environment.
        name: the job's submission id; Ray makes one up if it is empty.
    """

    command: tuple[str, ...]
    working_dir: str = "."
    runtime_env: Path = RUNTIME_ENV
    name: str = ""

    @property
    def entrypoint(self) -> str:
        return shlex.join((*_PROGRAM, *self.command))

    def line(self, address: str) -> str:
        """The call of Ray's own program that does the same."""
        named = ("--submission-id", self.name) if self.name else ()
        places = ("--working-dir", self.working_dir, "--runtime-env", str(self.runtime_env))
        ray = ("ray", "job", "submit", "--address", address)
        return shlex.join((*ray, *named, *places, "--", *_PROGRAM, *self.command))

    def environment(self) -> dict[str, Any]:
        """Ray's runtime environment, as `submit_job` takes it.

        Raises:
            ConfigError: no such file or folder, not what Ray takes, too large, or a secret that all would see.
        """
        if self.name and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(f"--name {self.name}: use letters, digits, and '.', '_' or '-' within")
        made = {**_read(self.runtime_env), "working_dir": self.working_dir}
        _check_secrets(self.entrypoint, made.get("env_vars", {}))
        if "://" not in self.working_dir:
            _check_size(Path(self.working_dir), made.get("excludes", []), self.runtime_env)
        return made


def _read(path: Path) -> dict[str, Any]:
    from ray.runtime_env import RuntimeEnv

    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file, so the job would take data and runs along; call this from the folder that has it, "
            "or name yours with --runtime-env"
        )
    try:
        read = read_yaml(path)
    except ValueError as error:
        raise ConfigError(f"{path}: no YAML ({error})", code="INVALID_YAML") from None
    if not isinstance(read, dict):
        raise ConfigError(f"{path}: holds a {type(read).__name__}, and a runtime environment is a mapping of keys")
    if unknown := read.keys() - RuntimeEnv.known_fields:
        raise ConfigError(f"{path}: Ray knows no {', '.join(map(repr, sorted(map(str, unknown))))}")
    try:
        RuntimeEnv(**{key: value for key, value in read.items() if key != "working_dir"})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: Ray does not take it ({error})") from None
    return read


def _check_secrets(entrypoint: str, variables: Mapping[str, str]) -> None:
    """Entry points and environments of jobs stand in the logs and on the dashboard."""
    sent = {"the command": entrypoint} | {f"env_vars.{name}": value for name, value in variables.items()}
    for name, value in os.environ.items():
        if not _SECRET.search(name.upper()) or len(value) < _LEAST_LETTERS:
            continue
        for place, text in sent.items():
            if value in text:
                raise ConfigError(
                    f"{place} holds the value of {name}, which would stand in the job's log and on the dashboard; set "
                    f"{name} in the environment of the nodes instead"
                )


def _check_size(root: Path, excludes: list[str], runtime_env: Path) -> None:
    if not root.is_dir():
        raise ConfigError(f"--working-dir {root}: no such folder")
    sizes = sizes_of(root, excludes)
    if (total := sizes.total()) > MOST_BYTES:
        raise ConfigError(too_large(root, total, sizes, runtime_env))


def too_large(root: Path, total: int, sizes: Counter[str], runtime_env: Path) -> str:
    most = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.most_common(3))
    return (
        f"--working-dir {root.absolute()}: {total / 2**20:,.0f} MiB would go to the cluster, and Ray's job server "
        f"takes {MOST_BYTES / 2**20:.0f} MiB; the largest are {most}. Name them under `excludes` in {runtime_env} or "
        "in .gitignore, and put data where all nodes see it"
    )


def sizes_of(root: Path, excludes: list[str]) -> Counter[str]:
    """Bytes that go along, by the files and folders just below `root`; walked as Ray walks."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root, sizes = root.absolute(), Counter[str]()

    def weigh(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root).parts[0]] += path.stat().st_size

    with_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    skip = _get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])
    _dir_travel(root, [skip], weigh, include_gitignore=with_gitignore, logger=_LOGGER)
    return sizes
