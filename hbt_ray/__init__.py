"""hbt_ray: hybrid batch training of multilingual dense retrievers on Ray.

The names listed here are stable; everything else may change. They are imported on first use, so that `import hbt_ray`
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hbt_ray.data.index.negatives import Negatives as Negatives
    from hbt_ray.data.plan.config import PlanConfig as PlanConfig
    from hbt_ray.data.plan.plan import Batch as Batch
    from hbt_ray.data.plan.plan import Plan as Plan
    from hbt_ray.data.prepare import StoreConfig as StoreConfig
    from hbt_ray.data.prepare import prepare as prepare
    from hbt_ray.data.store.store import Store as Store
    from hbt_ray.retrieval.encoder import EncoderConfig as EncoderConfig
    from hbt_ray.retrieval.mining.candidates import MineConfig as MineConfig
    from hbt_ray.retrieval.mining.mine import mine as mine
    from hbt_ray.retrieval.result import EvaluationResult as EvaluationResult
    from hbt_ray.retrieval.tasks import Task as Task
    from hbt_ray.retrieval.tasks import open_task as open_task
    from hbt_ray.train.config import TrainConfig as TrainConfig
    from hbt_ray.train.driver.trainer import fit as fit
    from hbt_ray.train.loss.info_nce import info_nce as info_nce

_HOMES = {
    "Batch": "data.plan.plan",
    "EncoderConfig": "retrieval.encoder",
    "MineConfig": "retrieval.mining.candidates",
    "Negatives": "data.index.negatives",
    "Plan": "data.plan.plan",
    "PlanConfig": "data.plan.config",
    "Store": "data.store.store",
    "StoreConfig": "data.prepare",
    "Task": "retrieval.tasks",
    "TrainConfig": "train.config",
    "EvaluationResult": "retrieval.result",
    "fit": "train.driver.trainer",
    "info_nce": "train.loss.info_nce",
    "mine": "retrieval.mining.mine",
    "open_task": "retrieval.tasks",
    "prepare": "data.prepare",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbt_ray' has no attribute {name!r}")
    return getattr(import_module(f"hbt_ray.{_HOMES[name]}"), name)
