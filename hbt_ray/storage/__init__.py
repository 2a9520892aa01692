"""Storage: atomic files and folders, JSON Lines, checksums, file locks, valid file names, and locations.

Everything that hbt_ray writes below a run, a store, a search or an index goes through this package:

- A file or folder appears complete or not at all; the previous one exists until it is replaced.
- Readers skip a line that a kill or a full disk truncated, and the next line is written on a line of its own.
- Deletion does not follow symbolic links.
- A full or read-only disk raises one `StorageError` that names the path.
- The next writer of a path deletes the scratch files of a process that died.

`hbt_ray.storage.location` (paths and URIs of object stores, and reading and writing files there) is imported by its own
name, because it loads pyarrow.
"""

from hbt_ray.storage.atomic import (
    atomic_file,
    atomic_folder,
    fsync,
    is_unused,
    remove_tree,
    temporary_folder,
    write_text,
)
from hbt_ray.storage.json_files import (
    CHECKSUMS,
    append_json_lines,
    checked_file,
    encode_json_lines,
    file_sha256,
    parse_checked_json,
    read_checked_json,
    read_json_lines,
    text_sha256,
    with_checksum,
    write_checked_json,
    write_checksums,
    write_json,
    write_json_lines,
)
from hbt_ray.storage.locks import LOCK_TIMEOUT_SECONDS, blocking_lock, exclusive_lock
from hbt_ray.storage.names import Name, RelativePath, valid_name
from hbt_ray.storage.storage_errors import naming_storage_errors, storage_error

__all__ = [
    "CHECKSUMS", "LOCK_TIMEOUT_SECONDS", "Name", "RelativePath", "append_json_lines", "atomic_file", "atomic_folder",
    "blocking_lock", "checked_file", "encode_json_lines", "exclusive_lock", "file_sha256", "fsync", "is_unused",
    "naming_storage_errors", "parse_checked_json", "read_checked_json", "read_json_lines", "remove_tree",
    "storage_error", "temporary_folder", "text_sha256", "valid_name", "with_checksum", "write_checked_json",
    "write_checksums", "write_json", "write_json_lines", "write_text"
]  # fmt: skip
