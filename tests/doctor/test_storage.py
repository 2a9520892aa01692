"""The folder of the runs: what each place writes and reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.doctor import probe
from hbt_ray.doctor.checks import DRIVER, StorageAccess, check_storage
from hbt_ray.doctor.probe import read_markers, remove_marker, write_marker
from tests.doctor.nodes import GIB, as_tuples

FREE_BYTES = 50 * GIB


def seen_by(folders: dict[str, Path]) -> dict[str, StorageAccess]:
    """Each place writes to its own folder of the same name and reads there, as nodes do."""
    everyone = list(folders)
    accesses = {}
    for number, folder in enumerate(folders.values()):
        write_marker(str(folder), "token", number)
    for name, folder in folders.items():
        seen = read_markers(str(folder), "token", range(len(everyone)))
        accesses[name] = StorageAccess(free_bytes=FREE_BYTES, visible=frozenset(everyone[number] for number in seen))
    return accesses


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "VISIBLE_SECONDS", 0.0)


def test_one_folder(tmp_path: Path) -> None:
    accesses = seen_by({DRIVER: tmp_path / "s", "a": tmp_path / "s", "b": tmp_path / "s"})
    assert as_tuples(check_storage("/mnt/hbt", accesses)) == [
        ("ok", "/mnt/hbt: one folder at the driver and on 2 nodes, 50.0 GiB free", "")
    ]


def test_nodes_that_do_not_see_it_are_named(tmp_path: Path) -> None:
    """The shared folder is where most are; c and d share another one, and e is alone."""
    shared, other = tmp_path / "shared", tmp_path / "other"
    folders = {DRIVER: shared, "a": shared, "b": shared, "c": other, "d": other, "e": tmp_path / "local"}
    ((level, message, remedy),) = as_tuples(check_storage("/mnt/hbt", seen_by(folders)))
    assert level == "failure"
    assert message == "/mnt/hbt is not the same folder everywhere: c, d; e cannot see the files of the others"
    assert "storage_path=" in remedy


def test_of_two_that_see_nothing_of_each_other_the_driver_has_it(tmp_path: Path) -> None:
    ((_, message, _),) = as_tuples(check_storage("/x", seen_by({"a": tmp_path / "a", DRIVER: tmp_path / "b"})))
    assert message.endswith(": a cannot see the files of the others")


def test_a_truncated_marker_is_not_visible(tmp_path: Path) -> None:
    write_marker(str(tmp_path), "token", 0)
    (tmp_path / ".hbt-doctor-token" / "1").write_text("tok")
    assert read_markers(str(tmp_path), "token", [0, 1]) == {0}


def test_machines_that_cannot_write_are_a_separate_finding(tmp_path: Path) -> None:
    accesses = seen_by({DRIVER: tmp_path, "a": tmp_path})
    accesses["b"] = StorageAccess("[Errno 13] Permission denied: '/mnt/hbt'")
    accesses["c"] = StorageAccess("no answer within 7 s")
    ((level, message, remedy),) = as_tuples(check_storage("/mnt/hbt", accesses))
    assert level == "failure"
    assert message == (
        "/mnt/hbt cannot be used: [Errno 13] Permission denied: '/mnt/hbt' (b), no answer within 7 s (c)"
    )
    assert "let Ray's user write below /mnt/hbt" in remedy


def test_a_file_in_the_way_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        write_marker(str(tmp_path / "runs"), "token", 0)


@pytest.mark.parametrize(("free", "level"), [(GIB, "failure"), (5 * GIB, "warning"), (11 * GIB, "ok")])
def test_free_space(free: int, level: str) -> None:
    everyone = frozenset((DRIVER, "a"))
    accesses = {
        DRIVER: StorageAccess(free_bytes=FREE_BYTES, visible=everyone),
        "a": StorageAccess(free_bytes=free, visible=everyone),
    }
    ((found, message, remedy),) = as_tuples(check_storage("/mnt/hbt", accesses))
    assert found == level
    assert f"{free / GIB:.1f} GiB" in message
    assert ("old runs" in remedy) == (level != "ok")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Also not the folders that were made for it; what was there before stays."""
    folder = tmp_path / "mnt" / "runs"
    made = [write_marker(str(folder), "token", number)[0] for number in range(2)]
    assert made == [2, 0]
    for number in (0, 1, 0, 1):
        remove_marker(str(folder), "token", number, made[number])
    assert list(tmp_path.iterdir()) == []
    write_marker(str(folder), "other", 0)
    (folder / "run").mkdir()
    remove_marker(str(folder), "other", 0, 2)
    assert [path.name for path in folder.iterdir()] == ["run"]
