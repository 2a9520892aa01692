"""The cache: small Arrow files on a node's disk, shared by all its processes and bounded in bytes.

Files are mapped into memory from there. A file appears whole, by a rename. When a process first opens one, it compares
it with its checksum, and one that is damaged is fetched again. Before a file is written, those that were used longest
ago make room, so the files never exceed the bound (lock files aside, which are empty). A process that has an evicted
file mapped reads on; its space is free once nobody has it mapped. Locks are those of the kernel (`flock`), which a
process that dies gives back. What is fetched is fetched by one process of the node, while the others wait for the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.store.columns import UNREADABLE, map_file
from hbt_ray.errors import StoreError

logger = logging.getLogger(__name__)

# Making room means to look at every file, so a tenth is made at once.
_SHARE_KEPT = 0.9
_MAX_CHECKED = 200_000


class NodeCacheConfig(Config):
    """What of a remote store lies on every node's own disk."""

    folder: Path | None = None
    """Default: `hbt_ray` in XDG_CACHE_HOME or ~/.cache of each node."""
    max_gib: float = Field(20.0, gt=0)
    """Bound of the folder, over all processes of a node and all stores; what was used longest ago goes first."""

    @property
    def root(self) -> Path:
        return self.folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbt_ray"


DEFAULT_CACHE = NodeCacheConfig()


class NodeCache:
    """A cache folder, opened; any number of threads and processes may use it.

    Raises:
        StoreError: the folder cannot be made or written.
    """

    def __init__(self, config: NodeCacheConfig) -> None:
        self._root, self._max_bytes = config.root, int(config.max_gib * 2**30)
        self._counting = threading.Lock()
        self._told = False
        self._checked: set[tuple[str, int, int]] = set()
        """Name, inode and size of the files that this process has compared with their checksums."""
        self.hits = self.misses = 0
        """Of this process."""
        with self._locked("ledger"):
            pass

    def get(
        self,
        key: tuple[object, ...],
        fetch: Callable[[], pa.Buffer],
        check: Callable[[Sequence[pa.RecordBatch]], None] = lambda _: None,
    ) -> list[pa.RecordBatch]:
        """The record batches of the Arrow file that `key` names.

        Args:
            key: of plain values; equal keys must mean equal content.
            fetch: makes the file's content where the cache has none; it checks what it gives.
            check: raises an `ArrowException` if record batches of the cache are not what `key` means.
        """
        name = _digest(key)
        if (batches := self._open(name, check)) is None:
            with self._locked(f"fetching-{name[:2]}"):
                if (batches := self._open(name, check)) is None:  # Another process may have brought it meanwhile.
                    content = fetch()
                    self._count(hit=False)
                    self._keep(name, content)
                    return self._open(name, check) or _batches(pa.ipc.open_file(content))
        self._count(hit=True)
        return batches

    def touch(self, key: tuple[object, ...]) -> None:
        """Say that it was used just now, by a process that has it mapped."""
        with suppress(OSError):
            os.utime(self._root / f"{_digest(key)}.arrow")

    def _open(self, name: str, check: Callable[[Sequence[pa.RecordBatch]], None]) -> list[pa.RecordBatch] | None:
        """None where there is no such file, or a damaged one, which is removed."""
        path = self._root / f"{name}.arrow"
        try:
            os.utime(path)
            status = path.stat()
            batches = _batches(map_file(path))
            identity = name, status.st_ino, status.st_size
            if identity not in self._checked:
                check(batches)
                if len(self._checked) > _MAX_CHECKED:
                    self._checked.clear()
                self._checked.add(identity)
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            logger.warning("%s: damaged (%s), fetched again", path, error)
            path.unlink(missing_ok=True)
            return None
        return batches

    def _keep(self, name: str, content: pa.Buffer) -> None:
        """Training goes on when the disk is full: what cannot be kept is fetched again when it is needed again."""
        if content.size > self._max_bytes:
            return
        try:
            with self._locked("ledger"):
                self._make_room(content.size)
                partial = self._root / f"{name}.partial"
                partial.write_bytes(content)
                partial.replace(self._root / f"{name}.arrow")
        except OSError as error:
            if not self._told:
                logger.warning("%s: cannot be written (%s), so remote data is read again and again", self._root, error)
            self._told = True

    def _make_room(self, num_bytes: int) -> None:
        """Count so many bytes in, before they are written: a crash leaves the count too high, never too low."""
        ledger = self._root / "size"
        try:
            total = int(ledger.read_text())
        except (OSError, ValueError):
            total = self._max_bytes
        if total + num_bytes > self._max_bytes:
            total = self._evict(self._max_bytes - num_bytes)
        ledger.write_text(str(total + num_bytes))

    def _evict(self, max_bytes: int) -> int:
        """Bytes that are left."""
        for partial in self._root.glob("*.partial"):  # Whoever wrote it has died: nobody else has the ledger now.
            partial.unlink()
        files = []
        for path in self._root.glob("*.arrow"):
            with suppress(FileNotFoundError):  # Somebody found it damaged just now.
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= max_bytes:
            return total
        for _, size, path in sorted(files):
            if total <= max_bytes * _SHARE_KEPT:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            file = (self._root / f"{name}.lock").open("w")
        except OSError as error:
            raise StoreError(
                f"the cache {self._root} cannot be used ({error.strerror}); give a folder on this machine's disk as "
                "stream.cache.folder"
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _count(self, *, hit: bool) -> None:
        with self._counting:
            self.hits += hit
            self.misses += not hit
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            _counter("hits" if hit else "misses").inc()


def _digest(key: tuple[object, ...]) -> str:
    """A file name for any key, whatever characters a manifest puts into it."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


def _batches(reader: Any) -> list[pa.RecordBatch]:
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    for batch in batches:
        batch.validate()
    return batches


@cache
def _counter(what: str) -> Any:
    from ray.util.metrics import Counter

    return Counter(f"hbt_cache_{what}", f"{what} of the node's cache of remote shards")
