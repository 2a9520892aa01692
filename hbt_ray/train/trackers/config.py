"""Configuration of the trackers."""

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
"""Tracker → modules that it needs, and the package to install."""
_DATABASE_MODULES = ("sqlalchemy", "alembic")
"""Modules that MLflow needs to write into a database without a server."""


class TrackersConfig(Config):
    """Where the curves of a run are logged."""

    use: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Any of tensorboard (files in RUN/tensorboard), mlflow and wandb (both need an extra)."""
    mlflow_uri: str = ""
    """URI of an MLflow tracking server or database; by default the file RUN/mlflow.db."""
    project: str = "hbt_ray"
    """Name of the MLflow experiment, or of the project of Weights & Biases."""

    def destination(self, name: str) -> str:
        """Where a tracker logs to. A continued run goes on in the same destination, and begins anew in another one."""
        return {
            "mlflow": f"mlflow {without_secrets(self.mlflow_uri)} {self.project}",
            "wandb": f"wandb {self.project}",
        }.get(name, name)

    def check_packages(self) -> None:
        """Raises: ConfigError if a package that a tracker needs is not installed."""
        for name in self.use:
            modules, package = _PACKAGES[name]
            if name == "mlflow" and not self.mlflow_uri.startswith(("http", "databricks")):
                modules += _DATABASE_MODULES
            if missing := [module for module in modules if find_spec(module) is None]:
                raise ConfigError(
                    f"trackers.use names {name}, but {' and '.join(missing)} is not installed; run "
                    f"`pip install '{package}'`, or remove {name} from trackers.use",
                    code="MISSING_PACKAGE",
                )
