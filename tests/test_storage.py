"""Storage under kills, full disks, symbolic links, concurrent writers and changed bits."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hbt_ray import storage
from hbt_ray.errors import DamagedFile, InputError, LockedError, StorageError
from tests.disks import small_disk


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", ".hidden", "~", "a\0b", "a\nb", " a", "ż" * 150, "\x1b[2J"]
)
def test_an_invalid_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        storage.valid_name(name, "run")
    assert caught.value.code == "INVALID_NAME"


@pytest.mark.parametrize("name", ["faq-hybrid", "xquad-r", "Ωμέγα", "a.b", "x" * 200, "intfloat--e5"])
def test_valid_names_are_accepted(name: str) -> None:
    assert storage.valid_name(name, "run") == name


def test_after_a_failed_write_the_old_file_exists_and_no_scratch(tmp_path: Path) -> None:
    path = storage.write_text(tmp_path / "a.json", "old")

    def write_half() -> None:
        with storage.atomic_file(path) as scratch:
            scratch.write_text("new")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def _replace_with_private_file(path: Path) -> None:
    """Replace a file by one that only its owner may read, as safetensors does."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    os.replace(name, path)


def test_files_and_folders_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with storage.atomic_file(tmp_path / "file") as scratch:
            _replace_with_private_file(scratch)
        with storage.atomic_folder(tmp_path / "folder") as scratch:
            _replace_with_private_file(scratch / "inner")
    finally:
        os.umask(old)
    modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("file", "folder", "folder/inner")]
    assert modes == ["0o640", "0o750", "0o640"]


def test_an_atomic_folder_replaces_a_link_but_not_its_target(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    (tmp_path / "results").symlink_to(outside)
    with storage.atomic_folder(tmp_path / "results") as scratch:
        (scratch / "new").write_text("x")
    assert (outside / "thesis.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path / "results")) == ["new"]
    assert not (tmp_path / "results").is_symlink()


def test_deletion_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (tmp_path / "direct").symlink_to(outside)
    storage.remove_tree(folder)
    storage.remove_tree(tmp_path / "direct")
    storage.remove_tree(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "file").read_text() == "mine"


def _wait_inside(writer: Callable[[Path], object], path: Path, ready: Path) -> None:
    with writer(path):  # type: ignore[attr-defined]
        ready.touch()
        time.sleep(60)


@pytest.mark.parametrize("writer", [storage.atomic_file, storage.atomic_folder])
def test_only_the_scratch_of_a_killed_writer_is_removed(tmp_path: Path, writer: Callable[[Path], object]) -> None:
    target, context = tmp_path / "target[1]", multiprocessing.get_context("fork")
    writers = []
    for number in range(2):
        ready = tmp_path / f"ready{number}"
        process = context.Process(target=_wait_inside, args=(writer, target, ready))
        process.start()
        while not ready.exists():
            time.sleep(0.01)
        writers.append(process)
    os.kill(writers[0].pid or 0, signal.SIGKILL)
    writers[0].join()
    with writer(target) as scratch:  # type: ignore[attr-defined]
        if scratch.is_file():
            scratch.write_text("x")
    assert len(list(tmp_path.glob(".*.part"))) == 1
    writers[1].kill()
    writers[1].join()


def test_two_processes_can_replace_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hbt_ray.storage import atomic_folder\n"
        "for n in range(150):\n"
        "    with atomic_folder(Path(sys.argv[1])) as scratch: (scratch / 'a').write_text(str(n))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x")]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "a").read_text() == "149"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(storage.atomic, "_exchange", lambda first, second: False)
    for content in ("old", "new"):
        with storage.atomic_folder(tmp_path / "x") as scratch:
            (scratch / content).write_text(content)
    assert os.listdir(tmp_path / "x") == ["new"]
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hbt_ray.storage import atomic_folder\n"
        "while True:\n"
        "    with atomic_folder(Path(sys.argv[1])) as scratch: (scratch / 'a').write_text('x')\n"
    )
    folder = tmp_path / "x"
    with subprocess.Popen([sys.executable, "-c", script, str(folder)]) as writer:
        while not folder.exists():
            time.sleep(0.01)
        missing = sum(not (folder / "a").exists() for _ in range(50_000))
        writer.kill()
    assert missing == 0


def test_a_truncated_line_is_skipped_and_the_next_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    storage.append_json_lines(path, [{"step": 0}, {"step": 1}])
    with path.open("ab") as file:
        file.write(b'{"step": 2, "text": "\xc3')
    storage.append_json_lines(path, [{"step": 3, "text": "é"}])
    assert [row["step"] for row in storage.read_json_lines(path)] == [0, 1, 3]
    assert "1 damaged lines" in caplog.text


def test_after_a_full_disk_a_file_has_its_previous_size(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        path = tmp_path / "a.jsonl"
        storage.append_json_lines(path, [{"step": 0}])
        with pytest.raises(StorageError) as caught:
            storage.append_json_lines(path, [{"text": "x" * 100_000}])
        assert (caught.value.code, caught.value.path) == ("STORAGE", str(path))
        assert path.read_text() == '{"step": 0}\n'
        with pytest.raises(StorageError), storage.atomic_folder(tmp_path / "folder") as scratch:
            (scratch / "a").write_text("x" * 100_000)
        assert os.listdir(tmp_path) == ["a.jsonl"]
        storage.append_json_lines(path, [{"step": 1}])
        assert storage.read_json_lines(path) == [{"step": 0}, {"step": 1}]


def test_a_storage_error_is_found_in_wrapped_errors() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/x/a")
        except OSError as error:
            raise RuntimeError("inline_container.cc: PytorchStreamWriter failed") from error
    except RuntimeError as error:
        named = storage.storage_error(error)
    assert named is not None
    assert named.path == "/x/a"
    assert storage.storage_error(ValueError("a bad number")) is None
    assert storage.storage_error(PermissionError(errno.EACCES, "Permission denied", "/data/source.jsonl")) is None


@pytest.mark.parametrize("change", [b"3", b"", b"{}"])
def test_a_changed_character_is_detected(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "a.json"
    storage.write_checked_json(path, {"step": 200, "files": {"a": "b"}})
    assert storage.read_checked_json(path) == {"step": 200, "files": {"a": "b"}}
    path.write_bytes(path.read_bytes().replace(b"2", change, 1) if change == b"3" else change)
    with pytest.raises(DamagedFile):
        storage.read_checked_json(path)


def test_a_second_lock_is_refused_with_the_owner_of_the_first(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"

    def second() -> BaseException | None:
        try:
            with storage.exclusive_lock(run, "hbt train"):
                return None
        except LockedError as error:
            return error

    with storage.exclusive_lock(run, "hbt train"), ThreadPoolExecutor(1) as pool:
        refusal = pool.submit(second).result()
        assert isinstance(refusal, LockedError)
        assert refusal.owner["pid"] == os.getpid()
        with storage.exclusive_lock(run.with_name("y"), "hbt train"):
            pass
    with storage.exclusive_lock(run, "hbt evaluate"):
        pass
    assert os.listdir(run.parent) == []


def test_a_thread_can_take_its_lock_again(tmp_path: Path) -> None:
    with storage.exclusive_lock(tmp_path / "x", "demo"):
        with storage.exclusive_lock(tmp_path / "x", "train"):
            pass
        assert os.listdir(tmp_path) == [".x.lock"], "the inner block ended, the outer one did not"
    assert os.listdir(tmp_path) == []


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    run, ready, context = tmp_path / "x", tmp_path / "ready", multiprocessing.get_context("fork")
    process = context.Process(
        target=_wait_inside, args=(lambda path: storage.exclusive_lock(path, "train"), run, ready)
    )
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(LockedError), storage.exclusive_lock(run, "train"):
        pass
    process.kill()
    process.join()
    with storage.exclusive_lock(run, "train"):
        pass


def test_a_lock_of_another_host_expires_without_heartbeat(tmp_path: Path) -> None:
    lock = tmp_path / ".x.lock"
    owner = {"host": f"not-{socket.gethostname()}", "pid": 1, "purpose": "train", "since": 0.0}
    lock.write_text(json.dumps(owner))
    with pytest.raises(LockedError), storage.exclusive_lock(tmp_path / "x", "train"):
        pass
    assert json.loads(lock.read_text()) == owner
    long_ago = time.time() - storage.LOCK_TIMEOUT_SECONDS - 1
    os.utime(lock, (long_ago, long_ago))
    with storage.exclusive_lock(tmp_path / "x", "train"):
        pass


@pytest.mark.parametrize("damage", [b"torn", b'{"step": 7}\n'], ids=["torn", "no checksum"])
def test_rows_with_a_wrong_checksum_are_skipped(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path, rows = tmp_path / "rows.jsonl", [{"step": step, "AP": step / 7} for step in range(5)]
    storage.append_json_lines(path, rows, checked=True)
    assert storage.read_json_lines(path, checked=True) == rows
    path.write_bytes(path.read_bytes().replace(b'"step": 3', b'"step": 2') + damage)
    for _ in range(3):
        assert storage.read_json_lines(path, checked=True) == [rows[0], rows[1], rows[2], rows[4]]
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
    storage.append_json_lines(path, [{"step": 5}], checked=True)
    assert storage.read_json_lines(path, checked=True)[-1] == {"step": 5}


def test_the_temporary_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    ready, context = tmp_path / "ready", multiprocessing.get_context("fork")
    make = lambda path: storage.temporary_folder("test", path)  # noqa: E731
    process = context.Process(target=_wait_inside, args=(make, tmp_path / "scratch", ready))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    with storage.temporary_folder("test", tmp_path / "scratch") as own:
        assert len(list((tmp_path / "scratch").glob("*.part"))) == 2, "a living process keeps its folder"
    process.kill()
    process.join()
    with storage.temporary_folder("test", tmp_path / "scratch") as own:
        assert [path.name for path in (tmp_path / "scratch").glob("*.part")] == [own.name]
    assert os.listdir(tmp_path / "scratch") == []


def test_a_folder_with_only_scratch_files_is_unused(tmp_path: Path) -> None:
    assert storage.is_unused(tmp_path / "nothing")
    assert storage.is_unused(tmp_path)
    (tmp_path / ".config.yaml.0123abcd.part").touch()
    assert storage.is_unused(tmp_path)
    (tmp_path / "thesis.txt").touch()
    assert not storage.is_unused(tmp_path)
    assert not storage.is_unused(tmp_path / "thesis.txt")
