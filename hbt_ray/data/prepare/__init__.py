"""Prepare a store from its sources in stages that exchange files.

    stage        module               a task takes           and writes
    read         `read`               a part of a source     valid rows, dealt into buckets by hash(dataset, item id)
    group        `group`              a bucket               which rows stay; uses `decontaminate`
    duplicates   `group`              a share of the hashes  rows whose texts another item has
    equal        `relevant_passages`  a share of the hashes  pairs of items with equal questions or passages
    relevant     `relevant_passages`  all pairs              which passages are right for each question
    assemble     `write`              a bucket               items, sorted by (dataset, languages, hash)
    write        `write`              slices of the buckets  a shard
    publish      `pipeline`           all results            the manifest

The hash is a random number, so sorting by it shuffles the items. A bucket is a range of the hash, so the order of the
buckets is part of that order: rows move between machines once, not three times.

Every stage is a Ray Data job over independent tasks, or a loop in this process with the same bytes as result
(`task_runner`). The results of a task are files, so a killed job continues from the tasks that are done, and a task
needs as much memory as the largest bucket. (Ray Data's own hash shuffle gathers all rows in actors and loses them with
the job.)
"""

from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.data.prepare.pipeline import REJECTED, REMOVED, PrepareResult, prepare
from hbt_ray.data.prepare.task_runner import in_process, on_ray

__all__ = ["REJECTED", "REMOVED", "PrepareResult", "StoreConfig", "in_process", "on_ray", "prepare"]
