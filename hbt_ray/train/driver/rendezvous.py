"""How the ranks of a run find each other: on one machine by a file, as torch's TCP store listens on every interface."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from hbt_ray.ray_session import session_folder


def torch_config(timeout_seconds: int) -> TorchConfig:
    """Ray Train's settings of the process group; needs a Ray session."""
    folder = session_folder()
    return _FileConfig(timeout_s=timeout_seconds, folder=folder) if folder else TorchConfig(timeout_s=timeout_seconds)


@dataclass
class _FileConfig(TorchConfig):  # type: ignore[misc]  # Ray has no types.
    """Ray Train knows `env` and `tcp` as init methods, which both listen on every interface."""

    folder: Path = Path()

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: _FileConfig) -> None:
        has_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        worker_group.execute(_set_torch_distributed_env_vars)
        file = backend_config.folder / f"ranks-{secrets.token_hex(4)}"  # A new one for every group: torch reuses none.
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
