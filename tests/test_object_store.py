"""Files, folders and locks in an object store keep the promises of those on a disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hbt_ray.storage.published_folder as published_folder
from hbt_ray.errors import DamagedFile, LockedError, StorageError, StoreError
from hbt_ray.storage import (
    ObjectPath,
    append_json_lines,
    as_path,
    atomic_file,
    atomic_folder,
    check_access,
    exclusive_lock,
    folder_exists,
    folder_file,
    is_unused,
    lease,
    local_folder,
    object_store,
    read_checked_json,
    read_json_lines,
    remove_tree,
    write_checked_json,
    write_json_lines,
    write_text,
)
from tests.object_stores import FaultProxy, behind, new_bucket, s3_server, slow_down, uri
from tests.refused import refused


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(port)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "RETRY_SECONDS", ())  # Arrow's client tries again for six seconds on its own.
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.05)


@pytest.fixture
def bucket(port: int) -> ObjectPath:
    return new_bucket(port)


@pytest.fixture
def faulty(bucket: ObjectPath, proxy: FaultProxy) -> ObjectPath:
    """The same bucket behind the proxy."""
    return behind(proxy, bucket)


def filled(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "inner" / "b c=1,é.txt").write_text(text * 2)


@pytest.mark.parametrize("name", ["a", "a b", "alpha=0.3,seed=1-x", "50%", "what?", "é#1"])
def test_a_path_is_its_uri_whatever_characters_it_has(bucket: ObjectPath, name: str) -> None:
    path = bucket / "runs" / name
    assert as_path(str(path)) == path
    assert path.name == name
    assert path.parent.name == "runs"
    assert not path.exists()
    write_text(path, "text")
    assert path.read_text() == "text"
    assert path.parent.names() == [name]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_a_local_location_is_a_path() -> None:
    assert as_path("runs/a") == Path("runs/a")
    assert as_path("file:///runs/a%20b") == Path("/runs/a b")
    assert as_path(Path("x")) == Path("x")


def test_a_file_larger_than_a_part_is_what_was_written(bucket: ObjectPath, tmp_path: Path) -> None:
    content = os.urandom(12 << 20)
    with atomic_file(bucket / "large") as scratch:
        scratch.write_bytes(content)
    assert (bucket / "large").size() == len(content)
    (bucket / "large").download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_a_failed_block_publishes_nothing(bucket: ObjectPath) -> None:
    write_text(bucket / "file", "old")
    file, folder = atomic_file(bucket / "file"), atomic_folder(bucket / "folder")
    file.__enter__().write_text("new")
    filled(folder.__enter__(), "new")
    error = RuntimeError()
    for block in (file, folder):
        assert not block.__exit__(RuntimeError, error, None)
    assert (bucket / "file").read_text() == "old"
    assert bucket.names() == ["file"]


def test_a_folder_is_replaced_as_a_whole(bucket: ObjectPath) -> None:
    folder = bucket / "model"
    assert not folder_exists(folder)
    for expected in (True, False):
        with pytest.raises(FileNotFoundError):
            local_folder(folder, expected=expected)
    for text in ("old", "new"):
        with atomic_folder(folder) as scratch:
            filled(scratch, text)
        copy = local_folder(folder)
        assert (copy / "a.txt").read_text() == text
        assert (copy / "inner" / "b c=1,é.txt").read_text() == text * 2
        assert copy.name == "model"
        assert folder_file(folder, "a.txt").read_text() == text
        assert not folder_file(folder, "missing").exists()
    assert len(folder.names()) == 2  # The manifest and one version.
    write_text(folder / "another-file.txt", "kept")  # As long as the name of a version.
    with atomic_folder(folder) as scratch:
        filled(scratch, "newer")
    assert (folder / "another-file.txt").read_text() == "kept"
    remove_tree(folder)
    assert not folder_exists(folder)
    assert is_unused(folder)


def test_another_node_fetches_a_folder_once(
    faulty: ObjectPath, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(faulty / "model") as scratch:
        filled(scratch, "text")
    made = local_folder(faulty / "model").stat().st_mtime_ns
    assert local_folder(faulty / "model").stat().st_mtime_ns == made  # By it a validation sees that the base is new.
    reads = [path for method, path in proxy.requests if method == "GET" and path.endswith(".txt")]
    assert not reads  # The writer's node has a copy.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other node"))
    threads = [threading.Thread(target=local_folder, args=(faulty / "model",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reads = [path for method, path in proxy.requests if method == "GET" and path.endswith(".txt")]
    assert len(reads) == len(set(reads)) == 2


@pytest.mark.parametrize("part", ["a.txt", "folder.json"])
def test_a_folder_whose_upload_ends_in_an_error_is_the_old_one(
    faulty: ObjectPath, proxy: FaultProxy, part: str
) -> None:
    folder = faulty / "model"
    with atomic_folder(folder) as scratch:
        filled(scratch, "old")
    proxy.fault = lambda method, path, size: slow_down(method, path, size) if part in path and method != "GET" else None
    with pytest.raises(StorageError, match=part), atomic_folder(folder) as scratch:
        filled(scratch, "new")
    proxy.fault = lambda method, path, size: None
    assert (local_folder(folder) / "a.txt").read_text() == "old"
    with atomic_folder(folder) as scratch:
        filled(scratch, "new")
    assert (local_folder(folder) / "a.txt").read_text() == "new"
    assert len(folder.names()) == 2  # What the failed upload left is gone.


@pytest.mark.parametrize("fault", ["503", "cut", "missing"])
def test_a_temporary_error_is_outlasted(
    faulty: ObjectPath, proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", (0.01,))
    answers = {"503": (503, ""), "cut": (0, ""), "missing": (404, "")}
    with atomic_folder(faulty / "model") as scratch:
        filled(scratch, "text")
    published_folder.shutil.rmtree(published_folder.node_folder())
    failed: set[str] = set()

    def once(method: str, path: str, size: int) -> tuple[int, str] | None:
        if method == "GET" and path.endswith((".txt", "folder.json")) and path not in failed:
            failed.add(path)
            return answers[fault]
        return None

    proxy.fault = once
    assert (local_folder(faulty / "model") / "a.txt").read_text() == "text"
    assert len(failed) == 3


def test_a_changed_or_missing_file_of_a_folder_is_named(bucket: ObjectPath) -> None:
    with atomic_folder(bucket / "model") as scratch:
        filled(scratch, "text")
    path = folder_file(bucket / "model", "a.txt")
    for damage in ("changed", "missing"):
        published_folder.shutil.rmtree(published_folder.node_folder())
        if damage == "changed":
            path.write_bytes(b"tExt")
        else:
            path.unlink()
        with pytest.raises(DamagedFile, match=r"a\.txt"):
            local_folder(bucket / "model")


def test_copies_on_a_node_stay_below_the_limit(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_folder, "MAX_COPIES_BYTES", 250)
    monkeypatch.setattr(published_folder, "_IN_USE_SECONDS", 0.0)
    for number in range(5):
        with atomic_folder(bucket / f"step-{number}") as scratch:
            (scratch / "weights").write_bytes(bytes(100))
    copies = sorted(path.name for path in (published_folder.node_folder() / "folders").glob("*/step-*"))
    assert copies == ["step-3", "step-4"]
    assert (local_folder(bucket / "step-0") / "weights").read_bytes() == bytes(100)


def test_rows_are_appended_and_replaced(bucket: ObjectPath) -> None:
    path = bucket / "metrics.jsonl"
    assert read_json_lines(path) == []
    append_json_lines(path, [{"step": 0}])
    append_json_lines(path, [{"step": 1}], durable=False)
    assert read_json_lines(path) == [{"step": 0}]
    append_json_lines(path, [])
    assert read_json_lines(path) == [{"step": 0}, {"step": 1}]
    write_json_lines(path, [{"step": 0}])
    append_json_lines(path, [{"step": 7}])
    assert read_json_lines(path) == [{"step": 0}, {"step": 7}]


def test_json_with_a_checksum(bucket: ObjectPath) -> None:
    path = write_checked_json(bucket / "a.json", {"value": 1})
    assert read_checked_json(path) == {"value": 1}
    path.write_bytes(path.read_bytes().replace(b": 1", b": 2"))
    with pytest.raises(DamagedFile, match=r"a\.json"):
        read_checked_json(path)
    with pytest.raises(FileNotFoundError):
        read_checked_json(bucket / "b.json")


def test_one_of_two_commands_holds_the_lock(bucket: ObjectPath) -> None:
    errors: list[LockedError] = []
    held = threading.Event()

    def other() -> None:
        held.wait()
        try:
            with exclusive_lock(bucket / "run", "training"):
                pass
        except LockedError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    with exclusive_lock(bucket / "run", "training"), exclusive_lock(bucket / "run", "training"):
        held.set()
        thread.join()
    assert len(errors) == 1
    assert errors[0].owner["purpose"] == "training"
    assert bucket.names() == []
    with exclusive_lock(bucket / "run", "training"):
        pass


def test_of_two_commands_that_begin_together_one_wins(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 2.0)  # As it is: a thread may have to wait for a busy machine.
    barrier, winners, losers = threading.Barrier(4), [], []

    def command(number: int) -> None:
        barrier.wait()
        try:
            with exclusive_lock(bucket / "run", "training"):
                winners.append(number)
                time.sleep(0.5)
        except LockedError:
            losers.append(number)

    threads = [threading.Thread(target=command, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(losers)) == (1, 3)


@pytest.mark.parametrize(("host", "waits"), [("another-host", True), ("this", False)])
def test_a_lock_of_a_process_that_ended_is_taken_over(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, host: str, waits: bool
) -> None:
    name = lease.socket.gethostname() if host == "this" else host
    ended = 2**22 + 1  # Above the largest process id.
    (bucket / ".run.lock").write_bytes(lease.json.dumps({"host": name, "pid": ended, "token": "x"}).encode())
    if waits:
        with pytest.raises(LockedError), exclusive_lock(bucket / "run", "training"):
            pass
        monkeypatch.setattr(lease, "LOCK_TIMEOUT_SECONDS", 0.0)  # As if it were long ago.
    with exclusive_lock(bucket / "run", "training"):
        assert read_owner(bucket)["pid"] == os.getpid()


def read_owner(bucket: ObjectPath) -> dict[str, object]:
    owner: dict[str, object] = lease.json.loads((bucket / ".run.lock").read_bytes())
    return owner


def test_an_owner_writes_its_lock_again_and_ends_if_it_was_taken_over(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    signals: list[int] = []
    taken = threading.Event()
    monkeypatch.setattr(lease.os, "kill", lambda pid, number: (signals.append(number), taken.set()))
    lock = bucket / ".run.lock"
    with exclusive_lock(bucket / "run", "training"):
        first, deadline = lock.modified(), time.monotonic() + 10
        while lock.modified() == first:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        deadline = time.monotonic() + 10
        while not taken.wait(0.3):  # Again, since the owner may write right after it has looked.
            assert time.monotonic() < deadline
            lock.write_bytes(lease.json.dumps({"host": "other", "pid": 1, "token": "theirs"}).encode())
    assert signals == [lease.signal.SIGTERM]
    assert read_owner(bucket)["token"] == "theirs"  # The lock of the new owner stays.


def test_a_store_that_throttles_for_too_long_is_named_with_the_object(faulty: ObjectPath, proxy: FaultProxy) -> None:
    proxy.fault = slow_down
    with refused("STORAGE", "config.yaml", "SLOW_DOWN"):
        write_text(faulty / "config.yaml", "text")
    with refused("UNREACHABLE", "config.yaml"):
        (faulty / "config.yaml").read_bytes()


def test_a_bucket_that_is_not_there_is_not_tried_again(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", (600.0,))
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        write_text(ObjectPath.parse(uri(port, "nobody/config.yaml")), "text")


def test_an_endpoint_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        ObjectPath.parse(uri(9, "bucket/runs")).exists()


@pytest.mark.parametrize(
    ("methods", "status", "code"),
    [
        (("PUT", "POST"), 403, "AccessDenied"),  # Credentials that only read.
        (("PUT", "POST", "GET", "HEAD"), 403, "InvalidAccessKeyId"),
        (("PUT", "POST", "GET", "HEAD"), 403, "SignatureDoesNotMatch"),
        (("PUT", "POST", "GET", "HEAD"), 301, "PermanentRedirect"),  # A bucket of another region.
    ],
)
def test_rights_that_are_missing_are_known_at_once(
    faulty: ObjectPath,
    proxy: FaultProxy,
    methods: tuple[str, ...],
    status: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", (600.0,))
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    proxy.fault = lambda method, path, size: (status, body) if method in methods else None
    with refused("STORAGE", "runs/.access-"):
        check_access(faulty / "runs")
    proxy.fault = lambda method, path, size: None
    check_access(faulty / "runs")
    assert (faulty / "runs").names() == []
