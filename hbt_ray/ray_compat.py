"""Every use of a private Ray API, each with its reason. Nothing else in hbt_ray may use one; a test checks that.

`tests/test_ray_compat.py` calls these functions, so that a new version of Ray that changed one of them fails there and
not in a run. The only exception is `hbt_ray.doctor.probe`, which is sent to nodes without the rest of the package.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger(__name__)


def job_config_without_working_directory(module_path: Sequence[str]) -> Any:
    """Return a `JobConfig` whose workers have `module_path` and not the working directory on their module path.

    A `datasets.py` in the working directory would be imported instead of the library. Ray has no option for that: it
    adds the directories of the script and of the shell unless the runtime environment has a working directory.
    """
    from ray.job_config import JobConfig

    class _JobConfig(JobConfig):  # type: ignore[misc]  # Ray has no types.
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return _JobConfig(_py_driver_sys_path=list(module_path))


def start_cluster_actors() -> None:
    """Start the two actors that Ray Data keeps for a whole cluster, on the node of this process.

    Ray Data starts them on the node that first needs them. A node that has them is never idle, so an autoscaler keeps
    it, and if it is a spot node they end with it. No public function starts them.
    """
    with suppress(ImportError):
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator
        from ray.data._internal.stats import get_or_create_stats_actor

        default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()
        get_or_create_stats_actor()


def use_stable_trial_ids(generator: Any) -> None:
    """Make a `BasicVariantGenerator` name its trials `trial_00000`, `trial_00001`, and so on.

    Ray Tune puts a random prefix before the number. If its state is lost, a new session must give the same values the
    same ids, so that every trial continues its run.
    """
    generator._uuid_prefix = "trial_"


def last_started_cluster() -> str:
    """Return HOST:PORT of the cluster that `RAY_ADDRESS=auto` means, empty if there is none.

    Ray finds it without a public function, and tries to connect for minutes if the cluster has ended.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto") or ""


@contextmanager
def own_process_groups() -> Iterator[None]:
    """Make the processes that Ray starts leave the process group of this command.

    A signal to the group, as `timeout` sends it, then reaches the command alone, which ends Ray's processes in order.
    Otherwise Ray ends the command without a message once its raylet died. Ray calls the replaced function in each new
    process and has no other hook there.
    """
    from ray._private import utils

    original: Callable[[], None] = utils.set_kill_on_parent_death_linux

    def leave_group() -> None:
        os.setpgid(0, 0)
        original()

    utils.set_kill_on_parent_death_linux = leave_group
    try:
        yield
    finally:
        utils.set_kill_on_parent_death_linux = original


def discard_error_messages() -> None:
    """Do not print the errors that Ray's processes publish, such as a task that is tried again.

    A command that ends with an error may kill a process that still has tasks, and Ray then writes to standard output,
    where a command prints its result. The same errors reach the command as exceptions. Ray prints them in a thread,
    without a logger and without an option.
    """
    from ray._private import worker

    def discard(data: Any, ignore_prefix: bool) -> None:
        _LOGGER.debug("%s", data)

    worker.print_to_stdstream = discard


def package_sizes(root: Path, excludes: Sequence[str]) -> Counter[str]:
    """Return the bytes that a job's working directory sends, by file or folder directly below `root`.

    Ray packs the directory with the same private functions, so that its excludes and .gitignore have the same effect.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root, sizes = root.absolute(), Counter[str]()

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root).parts[0]] += path.stat().st_size

    skip = _get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])
    gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    _dir_travel(root, [skip], add, include_gitignore=gitignore, logger=_LOGGER)
    return sizes


def max_package_bytes() -> int:
    """Return the largest request that Ray's job server accepts. Packages are sent uncompressed."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    return int(DASHBOARD_CLIENT_MAX_SIZE)


def job_server_version(client: Any) -> str:
    """Return the Ray version of the cluster that a `JobSubmissionClient` is connected to."""
    return str(client._server_ray_version)


def is_actor_alive(actor_id: str) -> bool:
    """Return whether an actor is alive.

    The public state API needs an API server, which a session on one machine does not have.
    """
    from ray._private.state import actors

    return bool(actors(actor_id).get("State", "DEAD") != "DEAD")


def file_rendezvous(folder: Path, timeout_seconds: int) -> Any:
    """Return a `TorchConfig` whose ranks meet through a file below `folder`, for workers on one machine.

    Ray Train offers the init methods `env` and `tcp`, and torch's store of both listens on every interface.
    """
    import secrets

    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

    class _FileBackend(_TorchBackend):  # type: ignore[misc]  # Ray has no types.
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            has_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
            worker_group.execute(_set_torch_distributed_env_vars)
            # Each group needs a new file, because torch cannot reuse one.
            file = backend_config.folder / f"ranks-{secrets.token_hex(4)}"
            starts = [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if has_gpus else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{file}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
            ray.get(starts)

    @dataclass
    class _FileConfig(TorchConfig):  # type: ignore[misc]
        folder: Path = Path()

        @property
        def backend_cls(self) -> type[_TorchBackend]:
            return _FileBackend

    return _FileConfig(timeout_s=timeout_seconds, folder=folder)


def trainer_without_placement_group_cleaner() -> Any:
    """Return the class `TorchTrainer` without its actor that removes placement groups.

    The actor is detached. In Ray 2.60 it does not end after its work, and it waits without a limit if no API server
    answers. Without it a placement group ends with its job; `hbt_ray.train.driver.resources` releases that of a
    trial that was killed.
    """
    from ray.train.torch import TorchTrainer

    class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types.
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    return _Trainer
