"""Which trackers a run has."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from hbt_ray.config import Config
from hbt_ray.errors import ConfigError

_PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "hbt-ray[mlflow]"),
    "wandb": ("wandb", "hbt-ray[wandb]"),
}
"""Name → module and what to install."""


class TrackersConfig(Config):
    """Where curves are drawn."""

    use: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Any of tensorboard (files in RUN/tensorboard), mlflow and wandb (extras to install)."""
    mlflow_uri: str = ""
    """Tracking server or database; by default RUN/mlflow.db."""
    project: str = "hbt_ray"
    """MLflow's experiment, or the project of Weights & Biases."""

    def require(self) -> None:
        """Raises: ConfigError where a tracker's package is not installed."""
        for name in self.use:
            module, package = _PACKAGES[name]
            if find_spec(module) is None:
                raise ConfigError(
                    f"trackers.use names {name}, but {module} is not installed; run `pip install '{package}'`, or "
                    "leave it out"
                )
