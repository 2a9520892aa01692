"""The folder of the runs: what each place writes and reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.doctor import marks
from hbt_ray.doctor.machine import DRIVER
from hbt_ray.doctor.marks import read_marks, remove_marks, write_mark
from hbt_ray.doctor.storage import Sight, check_storage
from tests.doctor.machines import GIB, said

ROOM = 50 * GIB


def seen_by(folders: dict[str, Path]) -> dict[str, Sight]:
    """Each place writes to its own folder of the same name and reads there, as nodes do."""
    everyone = list(folders)
    sights = {}
    for number, folder in enumerate(folders.values()):
        write_mark(str(folder), "token", number)
    for name, folder in folders.items():
        seen = read_marks(str(folder), "token", range(len(everyone)))
        sights[name] = Sight(free_bytes=ROOM, seen=frozenset(everyone[number] for number in seen))
    return sights


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "PATIENCE_SECONDS", 0.0)


def test_one_folder(tmp_path: Path) -> None:
    sights = seen_by({DRIVER: tmp_path / "s", "a": tmp_path / "s", "b": tmp_path / "s"})
    assert said(check_storage("/mnt/hbt", sights)) == [
        ("ok", "/mnt/hbt: one folder at the driver and on 2 nodes, 50.0 GiB free", "")
    ]


def test_nodes_that_do_not_see_it_are_named(tmp_path: Path) -> None:
    """The shared folder is where most are; c and d share another one, and e is alone."""
    shared, other = tmp_path / "shared", tmp_path / "other"
    folders = {DRIVER: shared, "a": shared, "b": shared, "c": other, "d": other, "e": tmp_path / "local"}
    ((level, told, remedy),) = said(check_storage("/mnt/hbt", seen_by(folders)))
    assert level == "failure"
    assert told == ("/mnt/hbt is not the same folder everywhere: what the others wrote is not seen by c, d; e")
    assert "--storage" in remedy


def test_of_two_that_see_nothing_of_each_other_the_driver_has_it(tmp_path: Path) -> None:
    ((_, told, _),) = said(check_storage("/x", seen_by({"a": tmp_path / "a", DRIVER: tmp_path / "b"})))
    assert told.endswith("not seen by a")


def test_a_file_that_is_cut_short_is_not_seen(tmp_path: Path) -> None:
    write_mark(str(tmp_path), "token", 0)
    (tmp_path / ".hbt-doctor-token" / "1").write_text("tok")
    assert read_marks(str(tmp_path), "token", [0, 1]) == {0}


def test_who_cannot_write_is_told_apart_from_who_sees_nothing(tmp_path: Path) -> None:
    sights = seen_by({DRIVER: tmp_path, "a": tmp_path})
    sights["b"] = Sight("[Errno 13] Permission denied: '/mnt/hbt'")
    sights["c"] = Sight("no answer within 7 s")
    ((level, told, remedy),) = said(check_storage("/mnt/hbt", sights))
    assert level == "failure"
    assert told == ("/mnt/hbt cannot be used: [Errno 13] Permission denied: '/mnt/hbt' (b), no answer within 7 s (c)")
    assert "let the user that Ray runs as write below /mnt/hbt" in remedy


def test_a_file_in_the_way_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        write_mark(str(tmp_path / "runs"), "token", 0)


@pytest.mark.parametrize(("free", "level"), [(GIB, "failure"), (5 * GIB, "warning"), (11 * GIB, "ok")])
def test_room(free: int, level: str) -> None:
    everyone = frozenset((DRIVER, "a"))
    sights = {DRIVER: Sight(free_bytes=ROOM, seen=everyone), "a": Sight(free_bytes=free, seen=everyone)}
    ((found, told, remedy),) = said(check_storage("/mnt/hbt", sights))
    assert found == level
    assert f"{free / GIB:.1f} GiB" in told
    assert ("old runs" in remedy) == (level != "ok")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Also not the folders that were made for it; what was there before stays."""
    folder = tmp_path / "mnt" / "runs"
    made = [write_mark(str(folder), "token", number)[0] for number in range(2)]
    assert made == [2, 0]
    for number in (0, 1, 0, 1):
        remove_marks(str(folder), "token", number, made[number])
    assert list(tmp_path.iterdir()) == []
    write_mark(str(folder), "other", 0)
    (folder / "run").mkdir()
    remove_marks(str(folder), "other", 0, 2)
    assert [path.name for path in folder.iterdir()] == ["run"]
