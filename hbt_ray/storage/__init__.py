"""Storage: atomic files and folders, JSON Lines, checksums, file locks, valid file names, and locations.

Everything that hbt_ray writes below a run, a store, a search or an index goes through this package:

- A file or folder appears complete or not at all; the previous one exists until it is replaced.
- Readers skip a line that a kill or a full disk truncated, and the next line is written on a line of its own.
- Deletion does not follow symbolic links.
- A full or read-only disk raises one `StorageError` that names the path.
- The next writer of a path deletes the scratch files of a process that died.

A path may be one of an object store (`AnyPath`), with the same promises: see `published_folder` and `lease`.
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
from hbt_ray.storage.checksums import file_sha256, parse_checked_json, text_sha256, with_checksum
from hbt_ray.storage.json_files import (
    CHECKSUMS,
    append_json_lines,
    checked_file,
    encode_json_lines,
    read_checked_json,
    read_json_lines,
    write_checked_json,
    write_checksums,
    write_json,
    write_json_lines,
)
from hbt_ray.storage.lease import LOCK_TIMEOUT_SECONDS
from hbt_ray.storage.locks import blocking_lock, exclusive_lock
from hbt_ray.storage.names import Name, RelativePath, valid_name
from hbt_ray.storage.object_path import AnyPath, ObjectPath, as_path, check_access
from hbt_ray.storage.published_folder import (
    folder_exists,
    folder_file,
    local_folder,
    local_twin,
    names_in,
    node_folder,
)
from hbt_ray.storage.storage_errors import naming_storage_errors, storage_error

__all__ = [
    "CHECKSUMS", "LOCK_TIMEOUT_SECONDS", "AnyPath", "Name", "ObjectPath", "RelativePath", "append_json_lines",
    "as_path", "atomic_file", "atomic_folder", "blocking_lock", "check_access", "checked_file",
    "encode_json_lines", "exclusive_lock",
    "file_sha256", "folder_exists", "folder_file", "fsync", "is_unused", "local_folder", "local_twin", "names_in",
    "naming_storage_errors",
    "node_folder", "parse_checked_json", "read_checked_json", "read_json_lines", "remove_tree", "storage_error",
    "temporary_folder", "text_sha256", "valid_name", "with_checksum", "write_checked_json", "write_checksums",
    "write_json", "write_json_lines", "write_text"
]  # fmt: skip
