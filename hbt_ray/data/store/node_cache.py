"""The node's cache: small Arrow files on a node's disk, shared by all its processes and bounded in bytes.

- Files are memory-mapped. A file appears complete, by a rename.
- A process verifies a file when it first opens it. A damaged file is fetched again.
- Before a file is written, the least recently used files are evicted, so the files never exceed the bound (except for
  empty lock files). A process that has mapped an evicted file can still read it; its space is freed afterwards.
- One process of the node fetches a file while the others wait for it. Locks are kernel locks (`flock`), which are freed
  if their owner dies.
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
from hbt_ray.errors import StoreError

logger = logging.getLogger(__name__)

ARROW_ERRORS = (OSError, ValueError, LookupError, pa.ArrowException)
"""Errors of reading a damaged Arrow file, including names that are not UTF-8 and missing record batches."""
# Eviction looks at every file of the cache, so it frees a tenth of the bound at a time.
_SHARE_KEPT = 0.9
_MAX_VERIFIED = 200_000
"""Bound of the set of verified files; beyond it, files are verified again."""


class NodeCacheConfig(Config):
    """Cache of remote stores on every node's own disk."""

    folder: Path | None = None
    """Folder on each node's local disk. null: `hbt_ray` in XDG_CACHE_HOME or ~/.cache."""
    max_gib: float = Field(20.0, gt=0)
    """Maximum size of the folder in GiB, for all processes of a node and all stores together. The least recently used
    data is evicted first."""

    @property
    def root(self) -> Path:
        """The folder to use on this node."""
        return self.folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbt_ray"


DEFAULT_CACHE = NodeCacheConfig()


class NodeCache:
    """An open cache folder. Any number of threads and processes may use it at once.

    Raises:
        StoreError: the folder cannot be created or written.
    """

    def __init__(self, config: NodeCacheConfig) -> None:
        self._root, self._max_bytes = config.root, int(config.max_gib * 2**30)
        self._count_lock = threading.Lock()
        self._has_warned = False
        self._verified: set[tuple[str, int, int]] = set()
        """(name, inode, size) of files that this process has verified."""
        self.hits = self.misses = 0
        """Numbers of `get` calls of this process that did not fetch, and that did."""
        with self._lock("ledger"):
            pass

    def get(
        self,
        key: tuple[object, ...],
        fetch: Callable[[], pa.Buffer],
        verify: Callable[[Sequence[pa.RecordBatch]], None] = lambda _: None,
    ) -> list[pa.RecordBatch]:
        """The record batches of the Arrow file for `key`, fetched if the cache does not have it.

        Args:
            key: plain values. Equal keys must mean equal content.
            fetch: returns the verified content of the file.
            verify: raises an `ArrowException` if record batches of the cache are not the content for `key`.
        """
        name = _file_name(key)
        if (batches := self._open(name, verify)) is None:
            # 256 locks by the first two hexadecimal digits: few files, and few unrelated waits.
            with self._lock(f"fetching-{name[:2]}"):
                if (batches := self._open(name, verify)) is None:  # Another process may have fetched it meanwhile.
                    content = fetch()
                    self._count(hit=False)
                    self._put(name, content)
                    # The file may not have been written, or may be evicted already.
                    return self._open(name, verify) or _record_batches(pa.ipc.open_file(content))
        self._count(hit=True)
        return batches

    def _open(self, name: str, verify: Callable[[Sequence[pa.RecordBatch]], None]) -> list[pa.RecordBatch] | None:
        """The record batches of a file; None if it does not exist or is damaged. A damaged file is deleted."""
        path = self._root / f"{name}.arrow"
        try:
            # The modification time is the time of last use, by which files are evicted.
            os.utime(path)
            status = path.stat()
            batches = _record_batches(map_file(path))
            identity = name, status.st_ino, status.st_size
            if identity not in self._verified:
                verify(batches)
                if len(self._verified) > _MAX_VERIFIED:
                    self._verified.clear()
                self._verified.add(identity)
        except FileNotFoundError:
            return None
        except ARROW_ERRORS as error:
            logger.warning("%s: damaged (%s), fetched again", path, error)
            path.unlink(missing_ok=True)
            return None
        return batches

    def _put(self, name: str, content: pa.Buffer) -> None:
        """Write a file if it fits. On a full disk, training continues, and the content is fetched again if needed."""
        if content.size > self._max_bytes:
            return
        try:
            with self._lock("ledger"):
                self._reserve(content.size)
                partial = self._root / f"{name}.partial"
                partial.write_bytes(content)
                partial.replace(self._root / f"{name}.arrow")
        except OSError as error:
            if not self._has_warned:
                logger.warning("%s: cannot be written (%s), so remote data is fetched repeatedly", self._root, error)
            self._has_warned = True

    def _reserve(self, num_bytes: int) -> None:
        """Add bytes to the ledger before they are written: after a crash the sum is too high, never too low."""
        ledger = self._root / "size"
        try:
            total = int(ledger.read_text())
        except (OSError, ValueError):
            # Unknown size: force `_evict` to count the files.
            total = self._max_bytes
        if total + num_bytes > self._max_bytes:
            total = self._evict(self._max_bytes - num_bytes)
        ledger.write_text(str(total + num_bytes))

    def _evict(self, max_bytes: int) -> int:
        """Delete the least recently used files until `max_bytes` are left. Returns the bytes left."""
        for partial in self._root.glob("*.partial"):  # Their writers died, since writing needs the ledger's lock.
            partial.unlink()
        files = []
        for path in self._root.glob("*.arrow"):
            with suppress(FileNotFoundError):  # Another process found it damaged and deleted it.
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
    def _lock(self, name: str) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            file = (self._root / f"{name}.lock").open("w")
        except OSError as error:
            raise StoreError(
                f"the cache folder {self._root} cannot be used ({error.strerror}). Set stream.cache.folder to a folder "
                "on this machine's disk",
                code="CACHE_FOLDER",
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _count(self, *, hit: bool) -> None:
        with self._count_lock:
            self.hits += hit
            self.misses += not hit
        # Only within a Ray session; importing Ray here would slow down commands that do not use it.
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            _metric("hits" if hit else "misses").inc()


def map_file(path: Path) -> Any:
    """A reader of a memory-mapped Arrow file. The mapping stays valid after the file is closed or deleted."""
    with pa.memory_map(str(path)) as file:
        # The buffer holds a reference to the mapping.
        return pa.ipc.open_file(pa.BufferReader(file.read_buffer()))


def _file_name(key: tuple[object, ...]) -> str:
    """A valid file name for any key, whatever characters a manifest contains."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


def _record_batches(reader: Any) -> list[pa.RecordBatch]:
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    for batch in batches:
        # Offsets beyond the mapped file would end the process with a signal.
        batch.validate()
    return batches


@cache
def _metric(event: str) -> Any:
    from ray.util.metrics import Counter

    return Counter(f"hbt_cache_{event}", f"{event} of the node's cache of remote shards")
