"""Which trackers a run has."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from hbt_ray.config import Config, without_secrets
from hbt_ray.errors import ConfigError

_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "tensorboard": (("tensorboardX",), "tensorboardX"),
    "mlflow": (("mlflow",), "hbt-ray[mlflow]"),
    "wandb": (("wandb",), "hbt-ray[wandb]"),
}
"""Name → modules, and what to install."""
_FOR_A_DATABASE = ("sqlalchemy", "alembic")


class TrackersConfig(Config):
    """Where curves are drawn."""

    use: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Any of tensorboard (files in RUN/tensorboard), mlflow and wandb (extras to install)."""
    mlflow_uri: str = ""
    """Tracking server or database; by default RUN/mlflow.db."""
    project: str = "hbt_ray"
    """MLflow's experiment, or the project of Weights & Biases."""

    def place(self, name: str) -> str:
        """Where the tracker of this name puts runs: the same place knows a continued run."""
        return {
            "mlflow": f"mlflow {without_secrets(self.mlflow_uri)} {self.project}",
            "wandb": f"wandb {self.project}",
        }.get(name, name)

    def require(self) -> None:
        """Raises: ConfigError where a tracker's package is not installed."""
        for name in self.use:
            modules, package = _PACKAGES[name]
            if name == "mlflow" and not self.mlflow_uri.startswith(("http", "databricks")):
                modules += _FOR_A_DATABASE
            if missing := [module for module in modules if find_spec(module) is None]:
                raise ConfigError(
                    f"trackers.use names {name}, but {' and '.join(missing)} is not installed; run "
                    f"`pip install '{package}'`, or leave it out"
                )
