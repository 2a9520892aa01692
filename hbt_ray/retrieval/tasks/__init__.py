"""Evaluation tasks: queries, the documents to search, and judgements of relevance."""

from hbt_ray.retrieval.tasks.bitext_task import BitextTask
from hbt_ray.retrieval.tasks.lareqa import read_lareqa
from hbt_ray.retrieval.tasks.suite import Suite, distinct, open_task
from hbt_ray.retrieval.tasks.task import Task, parallel_task

__all__ = ["BitextTask", "Suite", "Task", "distinct", "open_task", "parallel_task", "read_lareqa"]
