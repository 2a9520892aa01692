"""The work folder of a store that is being prepared, and the protection of files that `prepare` did not write.

`STORE/.prepare` holds the intermediate files. A marker file in it says that `hbt prepare` created it; a folder without
the marker is never changed or deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from hbt_ray.data.prepare.task_runner import TaskRunner
from hbt_ray.errors import StoreError
from hbt_ray.storage import atomic_folder, exclusive_lock, file_sha256, remove_tree
from hbt_ray.storage.folder import Folder

WORK_FOLDER = ".prepare"
"""Name of the work folder within the store's folder."""
READ_FOLDER = "read"
"""Subfolder for the results of reading the sources, which runs with different settings share."""
_MARKER = "about.txt"
_MARKER_TEXT = b"Intermediate files of `hbt prepare`, which deletes this folder when the store is complete.\n"


@contextmanager
def open_work_folder(store: Folder) -> Iterator[Folder]:
    """Create and lock the work folder of a store. It stays after the block unless it is empty.

    An object store has no locks; two commands that prepare the same store there write the same bytes.

    Raises:
        StoreError: something else exists at the location of the store or of its work folder.
        LockedError: another command prepares this store.
    """
    work, path = store / WORK_FOLDER, store.local
    if path is None:
        _check_is_ours(store)
        work.write(_MARKER, _MARKER_TEXT)
        yield work
        return
    if os.path.lexists(path) and not path.is_dir():
        raise StoreError(f"{path}: exists but is not a folder. Choose another path", code="NOT_A_STORE")
    is_new = not path.exists()
    try:
        with exclusive_lock(path / WORK_FOLDER, "hbt prepare"):
            _check_is_ours(store)
            if not is_work_folder(work):
                with atomic_folder(path / WORK_FOLDER) as scratch:
                    (scratch / _MARKER).write_bytes(_MARKER_TEXT)
            try:
                yield work
            finally:
                if work.names() == [_MARKER]:  # Nothing was done that another run could use.
                    work.remove()
    finally:
        if is_new:
            with suppress(OSError):  # It is not empty.
                path.rmdir()


def is_work_folder(work: Folder) -> bool:
    """Whether `hbt prepare` created this folder. The target of a symbolic link belongs to somebody else."""
    path = work.local
    return not (path and path.is_symlink()) and work.exists(_MARKER) and work.read(_MARKER) == _MARKER_TEXT


def _check_is_ours(store: Folder) -> None:
    """Refuse a folder with files of somebody else. Hidden files of the system and scratch files do not count.

    Raises:
        StoreError: the folder is not a store, or its work folder was not created by `hbt prepare`.
    """
    work, names = store / WORK_FOLDER, store.names()
    path = work.local
    is_folder = path is None or (path.is_dir() and not path.is_symlink())
    if WORK_FOLDER in names and not is_work_folder(work) and (not is_folder or work.names()):
        raise StoreError(
            f"{work}: exists but was not created by `hbt prepare`; nothing was changed. Choose another path",
            code="NOT_A_STORE",
        )
    if WORK_FOLDER not in names and any(not name.startswith(".") for name in names):
        raise StoreError(
            f"{store}: exists but is not a store; nothing was changed. Choose another path", code="NOT_A_STORE"
        )


def check_dataset_folders(store: Folder, datasets: Sequence[str]) -> None:
    """Refuse to write shards through symbolic links, over the files of somebody else.

    Raises:
        StoreError: a link or a file exists where the folder of a dataset is to be written.
    """
    for path in (store.local / name for name in datasets if store.local):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise StoreError(
                f"{path}: a link or a file exists where a folder of shards is to be written; nothing was changed. "
                "Remove it, or choose another path",
                code="NOT_A_STORE",
            )


def remove_stale_shards(runner: TaskRunner, fingerprint: str, shards: set[str]) -> None:
    """Delete shards of earlier runs with other settings that were not completed, as listed in their results.

    Args:
        fingerprint: subfolder of the current run.
        shards: shards of the current run, which stay.
    """
    for other in set(runner.folder.names()) - {fingerprint, READ_FOLDER, _MARKER}:
        for dataset in (runner.folder / other / "write").names():
            for name in (runner.folder / other / "write" / dataset).names():
                result = runner.load_result(f"{other}/write/{dataset}/{name.removesuffix('.json')}")
                if result and result["file"] not in shards:
                    _remove_shard(runner.store, result["file"], result["sha256"])


def _remove_shard(store: Folder, file: str, sha256: str) -> None:
    root = store.local
    if root is None:
        (store / file).remove()
    elif not (root / file).parent.is_symlink() and file_sha256(root / file) == sha256:
        remove_tree(root / file)
        with suppress(OSError):  # The folder contains other files.
            (root / file).parent.rmdir()
