"""Prepare: sources → store, as a job of six stages that hand one another files.

    read        a part of a source    → checked rows, dealt into buckets by the hash of (dataset, item id)
    group       a bucket              → which rows stay: one a language and item, none that overlaps evaluation data
    duplicates  a share of all hashes → which rows say what another item says already
    pack        a bucket              → items, sorted by (dataset, languages, hash)
    write       a shard               → slices of the buckets, end to end
    publish     the manifest          → the store is there

The hash is a random number, so sorting by it is the shuffle, and a bucket is a range of it, so buckets follow one
another: the rows move between machines once, not three times. Every stage is a Ray Data job over independent tasks, or
a loop in this process, to the same bytes. A task's result is a file, so a job that was killed goes on where it stopped,
and needs as much memory as its largest bucket. (Ray Data's own hash shuffle gathers all rows in actors, and what it has
done is lost with the job.)
"""

from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.data.prepare.pipeline import REJECTED, REMOVED, PrepareResult, prepare
from hbt_ray.data.prepare.task_runner import in_process, on_ray

__all__ = ["REJECTED", "REMOVED", "PrepareResult", "StoreConfig", "in_process", "on_ray", "prepare"]
