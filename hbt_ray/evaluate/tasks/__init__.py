"""Evaluation tasks: what to ask, where to look, and what would be right."""

from hbt_ray.evaluate.tasks.bitext import Bitext
from hbt_ray.evaluate.tasks.lareqa import read_lareqa
from hbt_ray.evaluate.tasks.named import Suite, distinct, open_task
from hbt_ray.evaluate.tasks.parallel import parallel_task
from hbt_ray.evaluate.tasks.task import Task

__all__ = ["Bitext", "Suite", "Task", "distinct", "open_task", "parallel_task", "read_lareqa"]
