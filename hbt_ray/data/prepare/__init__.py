"""Prepare a store from its sources, as a job of stages that pass files to each other.

    stage        module               a task takes           and writes
    read         `read`               a part of a source     valid rows, dealt into buckets by hash(dataset, item id)
    group        `group`              a bucket               which rows stay; uses `decontaminate`
    duplicates   `group`              a share of the hashes  rows whose texts another item has
    equal        `relevant_passages`  a share of the hashes  pairs of items with equal questions or passages
    relevant     `relevant_passages`  all pairs              which passages are right for each question
    assemble     `write`              a bucket               items, sorted by (dataset, languages, hash)
    write        `write`              slices of the buckets  a shard
    publish      `pipeline`           all results            the manifest

The hash is a random number, so sorting by it is the shuffle. A bucket is a range of the hash, so the buckets follow one
another in that order: rows move between machines once, not three times.

Every stage is a Ray Data job over independent tasks, or a loop in this process with the same bytes as result
(`task_runner`). The result of a task is a file, so a killed job continues where it stopped, and a task needs as much
memory as the largest bucket. (Ray Data's own hash shuffle gathers all rows in actors and loses them with the job.)
"""

from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.data.prepare.pipeline import REJECTED, REMOVED, PrepareResult, prepare
from hbt_ray.data.prepare.task_runner import in_process, on_ray

__all__ = ["REJECTED", "REMOVED", "PrepareResult", "StoreConfig", "in_process", "on_ray", "prepare"]
