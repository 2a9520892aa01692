"""Files that survive accidents: atomic writes, JSON Lines, checksums, locks, safe deletion, names that become paths.

Everything that hbt_ray writes below a run, a store, a search or an index goes through this package. It promises:

- a file or folder appears complete or not at all, and the one it replaces stays until then;
- a line that was cut short by a kill or a full disk is skipped by readers and does not spoil the next line;
- deletion never follows a symbolic link and removes only what it is given;
- a full or read-only disk becomes one `StorageError` that names the path;
- scratch files of a process that died are removed by the next writer of the same path.
"""

from hbt_ray.storage.atomic import (
    atomic_file,
    atomic_folder,
    is_unused,
    remove_tree,
    sync,
    temporary_folder,
    write_json,
    write_text,
)
from hbt_ray.storage.checksums import CHECKSUMS, checked_file, write_checksums
from hbt_ray.storage.json_lines import (
    append_json_lines,
    file_sha256,
    parse_checked_json,
    read_checked_json,
    read_json_lines,
    text_sha256,
    with_checksum,
    write_json_lines,
)
from hbt_ray.storage.locks import LOCK_TIMEOUT_SECONDS, blocking_lock, exclusive_lock
from hbt_ray.storage.names import MAX_NAME_BYTES, Name, RelativePath, valid_name, valid_relative_path
from hbt_ray.storage.storage_errors import naming_storage_errors, storage_error

__all__ = [
    "CHECKSUMS",
    "LOCK_TIMEOUT_SECONDS",
    "MAX_NAME_BYTES",
    "Name",
    "RelativePath",
    "append_json_lines",
    "atomic_file",
    "atomic_folder",
    "blocking_lock",
    "checked_file",
    "exclusive_lock",
    "file_sha256",
    "is_unused",
    "naming_storage_errors",
    "parse_checked_json",
    "read_checked_json",
    "read_json_lines",
    "remove_tree",
    "storage_error",
    "sync",
    "temporary_folder",
    "text_sha256",
    "valid_name",
    "valid_relative_path",
    "with_checksum",
    "write_checksums",
    "write_json",
    "write_json_lines",
    "write_text",
]
